//! CRI's messages as the bytes they have on the wire: a fifth of what they take unpacked, and of most pods nobody asks
//! again once they run.

use std::fmt;
use std::marker::PhantomData;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(super) struct Packed<M> {
    bytes: Box<[u8]>,
    message: PhantomData<fn() -> M>,
}

impl<M: Message + Default> Packed<M> {
    pub(super) fn new(message: &M) -> Packed<M> {
        Packed { bytes: message.encode_to_vec().into(), message: PhantomData }
    }

    pub(super) fn read(&self) -> M {
        M::decode(&*self.bytes).expect("the bytes were made of such a message, or have been read before")
    }

    pub(super) fn edit<T>(&mut self, change: impl FnOnce(&mut M) -> T) -> T {
        let mut message = self.read();
        let outcome = change(&mut message);
        *self = Packed::new(&message);
        outcome
    }
}

/// The same message may be written in two ways, if there are maps in it.
impl<M> PartialEq for Packed<M> {
    fn eq(&self, other: &Packed<M>) -> bool {
        self.bytes == other.bytes
    }
}

impl<M> Clone for Packed<M> {
    fn clone(&self) -> Self {
        Packed { bytes: self.bytes.clone(), message: PhantomData }
    }
}

impl<M: Message + Default + fmt::Debug> fmt::Debug for Packed<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.read().fmt(f)
    }
}

impl<M> Serialize for Packed<M> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.bytes))
    }
}

impl<'de, M: Message + Default> Deserialize<'de> for Packed<M> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(D::Error::custom)?;
        M::decode(bytes.as_slice()).map_err(D::Error::custom)?;
        Ok(Packed { bytes: bytes.into(), message: PhantomData })
    }
}

#[cfg(test)]
mod tests {
    use coracle_cri::v1::PodSandboxConfig;

    use super::*;

    #[test]
    fn a_record_that_is_no_such_message_is_refused_when_it_is_read() {
        let config = PodSandboxConfig { hostname: "web".to_owned(), ..PodSandboxConfig::default() };
        let mut packed = Packed::new(&config);
        packed.edit(|config| config.hostname.push('2'));
        let text = serde_json::to_string(&packed).unwrap();
        let read: Packed<PodSandboxConfig> = serde_json::from_str(&text).unwrap();
        assert_eq!(read.read().hostname, "web2");
        for broken in ["\"CgM=\"", "\"no base64\"", "7"] {
            assert!(serde_json::from_str::<Packed<PodSandboxConfig>>(broken).is_err(), "{broken}");
        }
    }
}
