//! Names and values, compressed by zlib with SPDY's dictionary, one stream of compression for each direction.

use std::io;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// Lower-case names, in the order in which they came.
pub type Headers = Vec<(String, String)>;

/// Uncompressed. Clients of Kubernetes send some hundred bytes.
const BLOCK_BYTES_MAX: usize = 64 << 10;
const PAIRS_MAX: usize = 256;

/// The value of a name.
pub fn value<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

pub(super) struct Reader(Decompress);

impl Reader {
    pub(super) fn new() -> Reader {
        Reader(Decompress::new(true))
    }

    pub(super) fn read(&mut self, block: &[u8]) -> io::Result<Headers> {
        parse(&self.inflate(block)?)
    }

    fn inflate(&mut self, mut block: &[u8]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        let mut piece = [0; 4096];
        loop {
            let (taken, made) = (self.0.total_in(), self.0.total_out());
            let outcome = self.0.decompress(block, &mut piece, FlushDecompress::Sync);
            let taken = usize::try_from(self.0.total_in() - taken).map_err(io::Error::other)?;
            let made = usize::try_from(self.0.total_out() - made).map_err(io::Error::other)?;
            block = &block[taken..];
            plain.extend_from_slice(&piece[..made]);
            if plain.len() > BLOCK_BYTES_MAX {
                return Err(broken("headers are too long"));
            }
            match outcome {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0
                        .set_dictionary(DICTIONARY)
                        .map_err(|_| broken("headers use a dictionary that is not SPDY's"))?;
                }
                Err(_) => return Err(broken("headers are not compressed by zlib")),
                Ok(Status::StreamEnd) => return Err(broken("the compression of headers ended")),
                Ok(Status::Ok | Status::BufError) if taken == 0 && made == 0 => break,
                Ok(Status::Ok | Status::BufError) => {}
            }
        }
        if block.is_empty() { Ok(plain) } else { Err(broken("headers are not compressed by zlib")) }
    }
}

fn parse(mut plain: &[u8]) -> io::Result<Headers> {
    fn number(plain: &mut &[u8]) -> io::Result<usize> {
        let (head, rest) = plain.split_first_chunk::<4>().ok_or_else(|| broken("headers are cut short"))?;
        *plain = rest;
        usize::try_from(u32::from_be_bytes(*head)).map_err(io::Error::other)
    }
    fn text(plain: &mut &[u8]) -> io::Result<String> {
        let length = number(plain)?;
        let (text, rest) = plain.split_at_checked(length).ok_or_else(|| broken("headers are cut short"))?;
        *plain = rest;
        String::from_utf8(text.to_vec()).map_err(|_| broken("headers are not text"))
    }
    let pairs = number(&mut plain)?;
    if pairs > PAIRS_MAX {
        return Err(broken("there are too many headers"));
    }
    (0..pairs).map(|_| Ok((text(&mut plain)?.to_ascii_lowercase(), text(&mut plain)?))).collect()
}

pub(super) struct Writer(Compress);

impl Writer {
    pub(super) fn new() -> Writer {
        let mut compress = Compress::new(Compression::fast(), true);
        compress.set_dictionary(DICTIONARY).expect("a new compressor takes a dictionary");
        Writer(compress)
    }

    pub(super) fn write(&mut self, headers: &Headers) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        let mut put = |text: &[u8]| {
            plain.extend_from_slice(&u32::try_from(text.len()).map_err(io::Error::other)?.to_be_bytes());
            plain.extend_from_slice(text);
            io::Result::Ok(())
        };
        for (name, value) in headers {
            put(name.as_bytes())?;
            put(value.as_bytes())?;
        }
        let count = u32::try_from(headers.len()).map_err(io::Error::other)?;
        let plain = [&count.to_be_bytes()[..], &plain].concat();
        // A flush adds some bytes, and what cannot be compressed grows a little.
        let mut block = Vec::with_capacity(plain.len() + plain.len() / 8 + 256);
        let before = self.0.total_in();
        self.0.compress_vec(&plain, &mut block, FlushCompress::Sync).map_err(io::Error::other)?;
        if self.0.total_in() - before == plain.len() as u64 && block.len() < block.capacity() {
            Ok(block)
        } else {
            Err(io::Error::other("headers do not fit their buffer"))
        }
    }
}

fn broken(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

macro_rules! dictionary {
    ($($length:literal $word:literal)* ; $rest:literal) => {
        concat!($("\0\0\0", $length, $word,)* $rest).as_bytes()
    };
}

/// As SPDY/3 has it: words with their lengths, then text.
const DICTIONARY: &[u8] = dictionary!(
    "\x07" "options" "\x04" "head" "\x04" "post" "\x03" "put" "\x06" "delete" "\x05" "trace" "\x06" "accept"
    "\x0e" "accept-charset" "\x0f" "accept-encoding" "\x0f" "accept-language" "\x0d" "accept-ranges" "\x03" "age"
    "\x05" "allow" "\x0d" "authorization" "\x0d" "cache-control" "\x0a" "connection" "\x0c" "content-base"
    "\x10" "content-encoding" "\x10" "content-language" "\x0e" "content-length" "\x10" "content-location"
    "\x0b" "content-md5" "\x0d" "content-range" "\x0c" "content-type" "\x04" "date" "\x04" "etag" "\x06" "expect"
    "\x07" "expires" "\x04" "from" "\x04" "host" "\x08" "if-match" "\x11" "if-modified-since" "\x0d" "if-none-match"
    "\x08" "if-range" "\x13" "if-unmodified-since" "\x0d" "last-modified" "\x08" "location" "\x0c" "max-forwards"
    "\x06" "pragma" "\x12" "proxy-authenticate" "\x13" "proxy-authorization" "\x05" "range" "\x07" "referer"
    "\x0b" "retry-after" "\x06" "server" "\x02" "te" "\x07" "trailer" "\x11" "transfer-encoding" "\x07" "upgrade"
    "\x0a" "user-agent" "\x04" "vary" "\x03" "via" "\x07" "warning" "\x10" "www-authenticate" "\x06" "method"
    "\x03" "get" "\x06" "status" "\x06" "200 OK" "\x07" "version" "\x08" "HTTP/1.1" "\x03" "url" "\x06" "public"
    "\x0a" "set-cookie" "\x0a" "keep-alive" "\x06" "origin"
    ;
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authori\
     tative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not \
     Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug S\
     ept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,imag\
     e/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,\
     sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_one_that_all_others_have() {
        assert_eq!(DICTIONARY.len(), 1423);
        // The checksum that streams of SPDY/3 begin with.
        let stream = Writer::new().write(&vec![("host".into(), "x".into())]).unwrap();
        assert_eq!(stream[2..6], [0xe3, 0xc6, 0xa7, 0xc2]);
    }

    #[test]
    fn headers_come_back_one_block_after_the_other() {
        let (mut writer, mut reader) = (Writer::new(), Reader::new());
        for round in 0..50 {
            let headers: Headers = vec![
                ("streamtype".into(), "data".into()),
                ("port".into(), "8080".into()),
                ("requestid".into(), round.to_string()),
            ];
            let block = writer.write(&headers).unwrap();
            assert_eq!(reader.read(&block).unwrap(), headers);
        }
        let long: Headers = vec![("x".into(), "y".repeat(20_000))];
        assert_eq!(reader.read(&writer.write(&long).unwrap()).unwrap(), long);
    }

    #[test]
    fn what_is_no_block_of_headers_is_refused() {
        let bomb = |bytes: usize| Writer::new().write(&vec![("x".into(), "y".repeat(bytes))]).unwrap();
        let mut zlib = Compress::new(Compression::fast(), true);
        let mut pack = |plain: &[u8]| {
            let mut block = Vec::with_capacity(1000);
            zlib.compress_vec(plain, &mut block, FlushCompress::Sync).unwrap();
            block
        };
        let shown: Vec<String> = [
            bomb(1 << 20),
            b"not zlib at all".to_vec(),
            vec![0x78, 0xbb, 1, 2, 3, 4, 0, 0],
            pack(&[0xff, 0xff, 0xff, 0xff]),
        ]
        .iter()
        .map(|block| Reader::new().read(block).unwrap_err().to_string())
        .collect();
        assert_eq!(
            shown,
            [
                "headers are too long",
                "headers are not compressed by zlib",
                "headers use a dictionary that is not SPDY's",
                "there are too many headers"
            ]
        );
        let mut zlib = Compress::new(Compression::fast(), true);
        let mut block = Vec::with_capacity(1000);
        zlib.compress_vec(&[0, 0, 0, 1, 0, 0, 0, 9, b'x'], &mut block, FlushCompress::Sync).unwrap();
        assert_eq!(Reader::new().read(&block).unwrap_err().to_string(), "headers are cut short");
    }
}
