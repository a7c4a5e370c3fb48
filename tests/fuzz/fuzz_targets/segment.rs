//! The body of a journal's segment.

#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom::format::fuzzing::segment;

fuzz_target!(|data: &[u8]| segment(data));
