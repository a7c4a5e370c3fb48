//! zstd frames of known content: every reader knows what it has to expect before it decompresses.

use zeroize::Zeroizing;
use zstd::bulk::Decompressor;
use zstd::zstd_safe;

use crate::error::{Error, ErrorKind, Result};

/// One zstd frame of `plain`.
///
/// # Errors
/// [`ErrorKind::Io`] when zstd has no memory.
pub(crate) fn compress_at(plain: &[u8], level: i32) -> Result<Zeroizing<Vec<u8>>> {
    zstd::bulk::compress(plain, level)
        .map(Zeroizing::new)
        .map_err(|error| Error::new(ErrorKind::Io, "zstd cannot compress").because(error))
}

/// One zstd frame of `plain`, then zeros up to a multiple of `block` bytes.
///
/// # Errors
/// [`ErrorKind::Io`] when zstd has no memory.
pub(crate) fn compress_padded(plain: &[u8], level: i32, block: u64) -> Result<Zeroizing<Vec<u8>>> {
    let mut compressed = compress_at(plain, level)?;
    let padded = (compressed.len() as u64).next_multiple_of(block);
    compressed.resize(padded as usize, 0);
    Ok(compressed)
}

/// Opens what [`compress_padded`] made, at most `max` bytes.
///
/// # Errors
/// [`ErrorKind::Tampered`].
pub(crate) fn decompress_padded(bytes: &[u8], block: u64, max: u64) -> Result<Vec<u8>> {
    decompress_padded_by(bytes, |length| length.next_multiple_of(block), max)
}

/// Opens one zstd frame, of at most `max` bytes when opened, with zeros behind it up to the length that `padded` names
/// for the frame's.
///
/// # Errors
/// [`ErrorKind::Tampered`].
pub(crate) fn decompress_padded_by(
    bytes: &[u8],
    padded: impl Fn(u64) -> u64,
    max: u64,
) -> Result<Vec<u8>> {
    let length = zstd_safe::find_frame_compressed_size(bytes).unwrap_or(bytes.len());
    let (frame, padding) = bytes.split_at_checked(length).unwrap_or((bytes, &[]));
    if padded(length as u64) != bytes.len() as u64 || padding.iter().any(|byte| *byte != 0) {
        return Err(Error::tampered("zstd frame: what follows is not its padding"));
    }
    decompress_at_most(frame, max)
}

/// A context for [`decompress`], to be used for many frames.
///
/// # Errors
/// [`ErrorKind::Io`] when there is no memory.
pub(crate) fn decompressor() -> Result<Decompressor<'static>> {
    Decompressor::new().map_err(|error| Error::new(ErrorKind::Io, "zstd: no memory").because(error))
}

/// Opens one zstd frame that must yield exactly `into.len()` bytes and end where `bytes` end.
///
/// Memory is `into` and zstd's own fixed context, whatever the frame claims.
///
/// # Errors
/// [`ErrorKind::Tampered`].
pub(crate) fn decompress(
    decompressor: &mut Decompressor<'_>,
    bytes: &[u8],
    into: &mut [u8],
) -> Result<()> {
    let bad = |what: &str| Error::tampered(format!("zstd frame: {what}"));
    let content = zstd_safe::get_frame_content_size(bytes).ok().flatten();
    if content != Some(into.len() as u64) {
        return Err(bad("its content size is not the one its place asks for"));
    }
    if zstd_safe::find_frame_compressed_size(bytes) != Ok(bytes.len()) {
        return Err(bad("it ends before or after its place"));
    }
    match decompressor.decompress_to_buffer(bytes, into) {
        Ok(length) if length == into.len() => Ok(()),
        Ok(_) => Err(bad("it is shorter than it says")),
        Err(error) => Err(bad("it does not decompress").because(error)),
    }
}

/// Opens one zstd frame of unknown length, at most `max` bytes.
///
/// # Errors
/// [`ErrorKind::Tampered`].
pub(crate) fn decompress_at_most(bytes: &[u8], max: u64) -> Result<Vec<u8>> {
    let length = zstd_safe::get_frame_content_size(bytes).ok().flatten();
    let length = length.filter(|length| *length <= max).ok_or_else(|| {
        Error::tampered(format!("zstd frame: no content size, or one above {max} bytes"))
    })?;
    let mut opened = vec![0; length as usize];
    decompress(&mut decompressor()?, bytes, &mut opened)?;
    Ok(opened)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_more_less_and_trailing_bytes() {
        let frame = zstd::bulk::compress(&[7; 1000], 1).unwrap();
        let decompress =
            |bytes: &[u8], into: &mut [u8]| decompress(&mut decompressor().unwrap(), bytes, into);
        assert!(decompress(&frame, &mut [0; 1000]).is_ok());
        assert!(decompress(&frame, &mut [0; 999]).is_err());
        assert!(decompress(&frame, &mut [0; 1001]).is_err());
        let mut long = frame.clone();
        long.push(0);
        assert!(decompress(&long, &mut [0; 1000]).is_err());
        let twice = [frame.as_slice(), &frame].concat();
        assert!(decompress(&twice, &mut [0; 2000]).is_err());
        assert!(decompress(&frame[..frame.len() - 1], &mut [0; 1000]).is_err());
    }

    #[test]
    fn padding_is_zeros_up_to_the_block_and_no_more() {
        // [S4.5.3]
        let padded = compress_padded(&[7; 1000], 1, 4096).unwrap().to_vec();
        assert_eq!(padded.len(), 4096);
        let open = |bytes: &[u8]| decompress_padded(bytes, 4096, 1 << 20);
        assert_eq!(open(&padded).unwrap(), [7; 1000]);
        let mut set = padded.clone();
        *set.last_mut().unwrap() = 1;
        assert!(open(&set).is_err());
        assert!(open(&[padded.as_slice(), &[0; 4096]].concat()).is_err());
        assert!(open(&padded[..4095]).is_err());
        assert!(open(&zstd::bulk::compress(&[7; 1000], 1).unwrap()).is_err());
        assert!(open(&[]).is_err());
    }

    #[test]
    fn a_bomb_is_refused_by_its_claim() {
        let bomb = zstd::bulk::compress(&vec![0; 1 << 24], 19).unwrap();
        assert!(bomb.len() < 4096);
        assert!(decompress_at_most(&bomb, 1 << 20).is_err());
        assert_eq!(decompress_at_most(&bomb, 1 << 24).unwrap().len(), 1 << 24);
    }
}
