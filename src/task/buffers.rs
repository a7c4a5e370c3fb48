//! Frame buffers that go round: a fresh megabyte for each frame costs more in page faults than all hashing.

use std::sync::{Arc, Mutex};

/// Buffers that come back here when they are dropped.
#[derive(Clone, Default)]
pub(crate) struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

/// A buffer on loan.
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    home: Buffers,
}

impl Buffers {
    /// An empty buffer that holds `capacity` bytes without growing.
    pub(crate) fn empty(&self, capacity: usize) -> Buffer {
        let spare = self.0.lock().ok().and_then(|mut spare| spare.pop());
        let mut bytes = spare.unwrap_or_default();
        bytes.clear();
        bytes.reserve_exact(capacity);
        Buffer { bytes, home: self.clone() }
    }

    /// A buffer of `length` bytes, whatever they are.
    pub(crate) fn of_length(&self, length: usize) -> Buffer {
        let spare = self.0.lock().ok().and_then(|mut spare| spare.pop());
        let mut bytes = spare.unwrap_or_default();
        bytes.resize(length, 0);
        Buffer { bytes, home: self.clone() }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Ok(mut spare) = self.home.0.lock() {
            spare.push(std::mem::take(&mut self.bytes));
        }
    }
}

impl std::ops::Deref for Buffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back() {
        let buffers = Buffers::default();
        let mut buffer = buffers.empty(1000);
        buffer.extend_from_slice(&[1; 1000]);
        let place = buffer.as_ptr();
        drop(buffer);
        let again = buffers.empty(10);
        assert!(again.is_empty());
        assert_eq!(again.as_ptr(), place);
        drop(again);
        assert_eq!(buffers.of_length(7).len(), 7);
    }
}
