//! The sockets by their ids.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::net::nat::sockets::{SocketError, SocketId};

/// Names a socket and no other, though its id may have been given again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) socket: SocketId,
    generation: u32,
}

impl From<Token> for u64 {
    fn from(token: Token) -> Self {
        (Self::from(token.generation) << 32) | Self::from(token.socket.0)
    }
}

impl From<u64> for Token {
    fn from(value: u64) -> Self {
        let [a, b, c, d, e, f, g, h] = value.to_be_bytes();
        Self {
            socket: SocketId(u32::from_be_bytes([e, f, g, h])),
            generation: u32::from_be_bytes([a, b, c, d]),
        }
    }
}

/// A bounded table that gives the lowest free id.
pub(super) struct Table<T> {
    slots: Vec<Option<(u32, T)>>,
    free: BinaryHeap<Reverse<u32>>,
    limit: u32,
    generation: u32,
}

impl<T> Table<T> {
    pub(super) fn new(limit: u32) -> Self {
        Self {
            slots: Vec::new(),
            free: BinaryHeap::new(),
            limit,
            generation: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty() && self.slots.len() >= self.limit as usize
    }

    pub(super) fn insert(&mut self, value: T) -> Result<Token, SocketError> {
        if self.is_full() {
            return Err(SocketError::Exhausted);
        }
        // None is 0, so that a token is never another kind of number (poll.rs).
        self.generation = self.generation.wrapping_add(1).max(1);
        let entry = Some((self.generation, value));
        let id = if let Some(Reverse(id)) = self.free.pop() {
            self.slots[id as usize] = entry;
            id
        } else {
            let id = u32::try_from(self.slots.len()).expect("less than the limit");
            self.slots.push(entry);
            id
        };
        Ok(Token {
            socket: SocketId(id),
            generation: self.generation,
        })
    }

    pub(super) fn remove(&mut self, id: SocketId) -> Option<T> {
        let (_, value) = self.slots.get_mut(id.0 as usize)?.take()?;
        self.free.push(Reverse(id.0));
        Some(value)
    }

    pub(super) fn get_mut(&mut self, id: SocketId) -> Option<&mut T> {
        let slot = self.slots.get_mut(id.0 as usize)?;
        slot.as_mut().map(|(_, value)| value)
    }

    /// The socket that the token names, if it is there still.
    pub(super) fn named_mut(&mut self, token: Token) -> Option<&mut T> {
        let slot = self.slots.get_mut(token.socket.0 as usize)?.as_mut();
        let of_token = slot.filter(|(generation, _)| *generation == token.generation);
        of_token.map(|(_, value)| value)
    }

    /// The token of the socket that has the id now.
    pub(super) fn token(&self, id: SocketId) -> Option<Token> {
        let (generation, _) = self.slots.get(id.0 as usize)?.as_ref()?;
        Some(Token {
            socket: id,
            generation: *generation,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_id_is_given() {
        let mut table = Table::new(5);
        for id in 0..5 {
            assert_eq!(table.insert('a').unwrap().socket, SocketId(id));
        }
        assert_eq!(table.insert('b'), Err(SocketError::Exhausted));
        for id in [3, 1, 4] {
            assert_eq!(table.remove(SocketId(id)), Some('a'));
        }
        assert_eq!(table.remove(SocketId(3)), None);
        assert_eq!(table.len(), 2);
        for id in [1, 3, 4] {
            assert_eq!(table.insert('c').unwrap().socket, SocketId(id));
        }
        assert!(table.is_full());
    }

    #[test]
    fn a_token_names_no_successor() {
        let mut table = Table::new(5);
        let first = table.insert('a').unwrap();
        assert_eq!(Token::from(u64::from(first)), first);
        assert_eq!(table.named_mut(first), Some(&mut 'a'));
        table.remove(first.socket).unwrap();
        assert_eq!(table.named_mut(first), None);
        let second = table.insert('b').unwrap();
        assert_eq!(second.socket, first.socket);
        assert_eq!(table.named_mut(first), None);
        assert_eq!(table.token(second.socket), Some(second));
    }
}
