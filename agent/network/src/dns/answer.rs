//! From a query's bytes to a reply's: what is said locally is said at once, the rest is left to be forwarded.

use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::{
    op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode},
    rr::{DNSClass, Name, RecordType},
    serialize::binary::{BinEncodable as _, BinEncoder},
};

use super::{
    forward::Forwarded,
    lookup::{Answer, Records, Zone, lookup, soa},
};

/// Aliases that are followed before somebody is assumed to go in circles.
const MAX_ALIASES: usize = 8;
/// What is offered to others, and the most that is sent over UDP: it fits every path of today.
const UDP_PAYLOAD: u16 = 1232;
const UDP_PAYLOAD_WITHOUT_EDNS: u16 = 512;

/// A query that has been understood.
pub(super) enum Step {
    Reply(Reply),
    /// The rest of the answer is to be asked of others: see [`Reply::complete`].
    Forward {
        name: Name,
        kind: RecordType,
        reply: Reply,
    },
    /// It is no query; nothing is to be said.
    Silence,
}

/// A reply in the making.
pub(super) struct Reply {
    message: Message,
    udp_payload: u16,
}

/// Answers `bytes`, a query; `turn` rotates equal answers among clients.
pub(super) fn answer(zone: &Zone, records: Option<&impl Records>, turn: &AtomicUsize, bytes: &[u8]) -> Step {
    let query = match Message::from_vec(bytes) {
        Ok(query) if query.metadata.message_type == MessageType::Query => query,
        Ok(_) => return Step::Silence,
        Err(_) => return malformed(bytes),
    };
    let mut reply = Reply::new(&query);
    if query.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return reply.failed(ResponseCode::BADVERS);
    }
    if query.metadata.op_code != OpCode::Query {
        return reply.failed(ResponseCode::NotImp);
    }
    let [question] = &query.queries[..] else {
        return reply.failed(ResponseCode::FormErr);
    };
    if !matches!(question.query_class(), DNSClass::IN | DNSClass::ANY) {
        return reply.failed(ResponseCode::Refused);
    }
    let kind = question.query_type();
    let mut name = question.name().clone();
    for _ in 0..MAX_ALIASES {
        // Until the facts are complete, it would be a lie to say that a name does not exist.
        let found = match records {
            Some(records) => lookup(zone, records, &name, kind),
            None if zone.domain.zone_of(&name.to_lowercase()) => return reply.failed(ResponseCode::ServFail),
            None => Answer::Elsewhere,
        };
        match found {
            Answer::Records { mut answers, additionals } => {
                for answer in answers.iter_mut().filter(|answer| answer.name == name) {
                    // As it was asked: some clients mix cases and want to see theirs again.
                    answer.name = name.clone();
                }
                let count = answers.len();
                answers.rotate_left(turn.fetch_add(1, Ordering::Relaxed) % count);
                reply.message.answers.extend(answers);
                reply.message.additionals.extend(additionals);
                return Step::Reply(reply);
            }
            Answer::Alias { record, target } => {
                reply.message.answers.push(*record);
                if kind == RecordType::CNAME {
                    return Step::Reply(reply);
                }
                name = target;
            }
            Answer::NoData => return reply.negative(zone, ResponseCode::NoError),
            Answer::NoName => return reply.negative(zone, ResponseCode::NXDomain),
            Answer::Elsewhere => {
                reply.message.metadata.authoritative = !reply.message.answers.is_empty();
                return Step::Forward { name, kind, reply };
            }
        }
    }
    reply.failed(ResponseCode::ServFail)
}

/// What is left of a message that cannot be read: its number, if it has one.
fn malformed(bytes: &[u8]) -> Step {
    let (Some(id), Some(flags)) = (bytes.first_chunk::<2>(), bytes.get(2)) else {
        return Step::Silence;
    };
    if bytes.len() < 12 || flags & 0x80 != 0 {
        return Step::Silence;
    }
    let message = Message::error_msg(u16::from_be_bytes(*id), OpCode::Query, ResponseCode::FormErr);
    Step::Reply(Reply { message, udp_payload: UDP_PAYLOAD_WITHOUT_EDNS })
}

impl Reply {
    fn new(query: &Message) -> Self {
        let mut message = Message::response(query.metadata.id, query.metadata.op_code);
        message.metadata = Metadata::response_from_request(&query.metadata);
        message.metadata.authoritative = true;
        message.metadata.recursion_available = true;
        message.queries = query.queries.clone();
        let udp_payload = match &query.edns {
            Some(edns) => {
                let mut own = Edns::new();
                own.set_max_payload(UDP_PAYLOAD);
                message.set_edns(own);
                edns.max_payload().clamp(UDP_PAYLOAD_WITHOUT_EDNS, UDP_PAYLOAD)
            }
            None => UDP_PAYLOAD_WITHOUT_EDNS,
        };
        Self { message, udp_payload }
    }

    fn failed(mut self, code: ResponseCode) -> Step {
        self.refuse(code);
        Step::Reply(self)
    }

    fn negative(mut self, zone: &Zone, code: ResponseCode) -> Step {
        self.message.metadata.response_code = code;
        self.message.authorities.push(soa(zone));
        Step::Reply(self)
    }

    /// Makes this the reply of a server that cannot answer.
    pub(super) fn refuse(&mut self, code: ResponseCode) {
        self.message.answers.clear();
        self.message.metadata.authoritative = false;
        self.message.metadata.response_code = code;
    }

    /// Adds what others said.
    pub(super) fn complete(&mut self, forwarded: Forwarded) {
        self.message.metadata.response_code = forwarded.code;
        self.message.answers.extend(forwarded.answers);
        self.message.authorities.extend(forwarded.authorities);
    }

    /// The reply's bytes; over UDP cut to what the client can take, and marked if so.
    pub(super) fn bytes(&self, udp: bool) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(512);
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(if udp { self.udp_payload } else { u16::MAX });
        self.message.emit(&mut encoder).ok()?;
        Some(bytes)
    }
}
