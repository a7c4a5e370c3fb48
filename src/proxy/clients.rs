//! Each client's share of the proxy's memory.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

use crate::values::{Budget, Room};

/// What a connection takes: its buffers, those of TLS, and its connection to etcd.
const CONNECTION: usize = 64 << 10;
/// What a call takes until its answer was sent: its state, messages that are too small to be counted, and what etcd
/// may send of its answer before there is room for it.
const CALL: usize = 64 << 10;
/// How many clients are remembered before disconnected ones are removed.
const FEW: usize = 64;

/// The clients that are connected, each with its share of one memory.
pub(super) struct Clients {
    memory: Budget,
    known: Mutex<Known>,
}

struct Known {
    clients: HashMap<Client, Budget>,
    /// The number of clients at which disconnected ones are removed.
    many: usize,
}

/// What identifies a client: its certificate's name, from any address; without one, its address.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Client {
    Name(Arc<str>),
    Address(IpAddr),
}

impl Clients {
    pub(super) fn new(memory: usize) -> Self {
        let known = Known { clients: HashMap::new(), many: FEW };
        Self { memory: Budget::new(memory), known: Mutex::new(known) }
    }

    /// The bytes in use.
    pub(super) fn used(&self) -> usize {
        self.memory.used()
    }

    /// Room for a connection from `address`.
    pub(super) fn connection(&self, address: IpAddr) -> Result<Room, Status> {
        self.share(Client::Address(network(address))).connect(CONNECTION)
    }

    /// The share of the client with the certificate of `name`, or at `address`.
    pub(super) fn of(&self, name: Option<&Arc<str>>, address: IpAddr) -> Budget {
        self.share(match name {
            Some(name) => Client::Name(Arc::clone(name)),
            None => Client::Address(network(address)),
        })
    }

    fn share(&self, client: Client) -> Budget {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.clients.len() >= known.many {
            known.clients.retain(|_, budget| budget.is_shared());
            known.many = known.clients.len().saturating_mul(2).max(FEW);
        }
        known.clients.entry(client).or_insert_with(|| self.memory.another()).clone()
    }
}

/// A host with one IPv6 address can use all that differ only in the last 64 bits.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)))
        }
        address => address,
    }
}

/// Room for one call of the client with `memory`.
pub(super) async fn call(memory: &Budget) -> Result<Room, Status> {
    memory.enter(CALL).await
}

/// An answer's body, which keeps the call's room until it was sent.
pub(super) struct Held {
    body: Body,
    _room: Option<Room>,
}

impl Held {
    pub(super) fn new(body: Body, room: Option<Room>) -> Self {
        Self { body, _room: room }
    }
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_apart_and_forgotten() {
        let clients = Clients::new(9 * CONNECTION);
        let home: IpAddr = "10.0.0.1".parse().unwrap();
        // A third of it is for the connections of one address.
        let rooms: Vec<_> = (0..3).map(|_| clients.connection(home).unwrap()).collect();
        assert!(clients.connection(home).is_err());
        assert!(clients.connection("::ffff:10.0.0.1".parse().unwrap()).is_err());
        let other = clients.connection("2001:db8::1".parse().unwrap()).unwrap();
        let named = clients.of(Some(&"app".into()), home);
        let held = named.take(3 * CONNECTION).unwrap();
        let same = clients.of(Some(&"app".into()), "10.0.0.2".parse().unwrap());
        assert!(same.take(CONNECTION).is_err());
        drop((rooms, other, held, named, same));
        assert_eq!(clients.used(), 0);
        for at in 0..10_000_u32 {
            clients.connection(IpAddr::from(at.to_be_bytes())).unwrap();
        }
        assert!(clients.known.lock().unwrap().clients.len() <= FEW);
        assert_eq!(
            network("2001:db8::1".parse().unwrap()),
            network("2001:db8::2".parse().unwrap())
        );
    }
}
