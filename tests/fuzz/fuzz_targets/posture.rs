//! Every parser of `strongroom::posture`; the first byte says which.

#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom::posture::fuzzing::ALL;

fuzz_target!(|data: &[u8]| {
    if let Some((which, bytes)) = data.split_first()
        && let Some((_, target)) = ALL.get(usize::from(*which) % ALL.len())
    {
        target(bytes);
    }
});
