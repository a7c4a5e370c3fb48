//! Sealing, opening and framing, beside the bare primitives they are made of.

#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::sync::Arc;

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{AeadInOut, KeyInit};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use strongroom::crypto::{CHUNK_LEN, Kem, Opener, PREFIX_LEN, Sealer, Suite, seal, system_rng};
use strongroom::envelope::{Asked, DataKey, NewSeal, judge_seal, seal_data_key};
use strongroom::format::{
    ClusterName, KeyState, Sha256, SnapshotId, Subject, Time, VALUE_OVERHEAD,
};
use strongroom::keys::{HpkeIdentity, KeySet, SigningKey, at_once};
use strongroom::secret::SecretKey;
use strongroom::values::{ValueCipher, keyring};

const MESSAGE: usize = 64 * CHUNK_LEN;
const FRAME: usize = 1 << 20;

fn key() -> SecretKey {
    SecretKey::new(|bytes| bytes.fill(1))
}

fn sealing(c: &mut Criterion) {
    let mut group = c.benchmark_group("1 MiB in 16 KiB chunks");
    group.throughput(Throughput::Bytes(MESSAGE as u64));
    let mut buffer = vec![7; MESSAGE];
    let raw = Aes256Gcm::new(&[1; 32].into());
    group.bench_function("raw aes-gcm", |b| {
        b.iter(|| {
            for chunk in buffer.chunks_mut(CHUNK_LEN) {
                black_box(raw.encrypt_inout_detached(&[0; 12].into(), b"", chunk.into()).unwrap());
            }
        });
    });
    for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
        group.bench_function(format!("seal {suite}"), |b| {
            b.iter(|| {
                let (mut sealer, prefix) = Sealer::new(suite, &key(), b"", &mut system_rng());
                black_box(prefix);
                for chunk in buffer.chunks_mut(CHUNK_LEN) {
                    black_box(sealer.seal_chunk(chunk).unwrap());
                }
                sealer.finish(&mut []).unwrap()
            });
        });
        let message = vec![7; MESSAGE];
        let sealed = seal(suite, &key(), b"", &message, &mut system_rng()).unwrap();
        let (prefix, chunks) = sealed.split_at(PREFIX_LEN);
        group.bench_function(format!("open {suite}"), |b| {
            b.iter_batched_ref(
                || chunks.to_vec(),
                |chunks| {
                    let opener = Opener::new(suite, &key(), b"", prefix).unwrap();
                    let last = chunks.len().div_ceil(CHUNK_LEN + 16) - 1;
                    for (at, chunk) in chunks.chunks_mut(CHUNK_LEN + 16).enumerate() {
                        opener.open_chunk(at as u64, at == last, chunk).unwrap();
                    }
                },
                criterion::BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

/// One value of 1 KiB, as an application seals and opens it.
fn values(c: &mut Criterion) {
    const VALUE: usize = 1024;
    let mut group = c.benchmark_group("one value of 1 KiB");
    group.throughput(Throughput::Bytes(VALUE as u64));
    let raw = Aes256Gcm::new(&[1; 32].into());
    let mut buffer = vec![7; VALUE];
    group.bench_function("raw aes-gcm seal", |b| {
        b.iter(|| {
            let out = buffer.as_mut_slice().into();
            black_box(raw.encrypt_inout_detached(&[0; 12].into(), b"/app/key", out).unwrap());
        });
    });
    let mut sealed = vec![7; VALUE];
    let tag = raw
        .encrypt_inout_detached(&[0; 12].into(), b"/app/key", sealed.as_mut_slice().into())
        .unwrap();
    group.bench_function("raw aes-gcm open", |b| {
        b.iter_batched_ref(
            || sealed.clone(),
            |sealed| {
                let out = sealed.as_mut_slice().into();
                raw.decrypt_inout_detached(&[0; 12].into(), b"/app/key", out, &tag).unwrap();
            },
            criterion::BatchSize::SmallInput,
        );
    });
    let keyring = keyring::generate(Time::from_unix(1_769_860_800), &mut system_rng());
    let cipher = ValueCipher::new(&keyring).unwrap();
    let mut buffer = vec![7; VALUE + VALUE_OVERHEAD];
    group.bench_function("seal", |b| {
        b.iter(|| cipher.seal_in_place(b"/app/key", black_box(&mut buffer)).unwrap());
    });
    let sealed = cipher.seal(b"/app/key", &[7; VALUE]).unwrap();
    group.bench_function("open", |b| {
        b.iter_batched_ref(
            || sealed.clone(),
            |sealed| cipher.open_in_place(b"/app/key", sealed).unwrap().len(),
            criterion::BatchSize::SmallInput,
        );
    });
    group.finish();
}

/// Text that compresses about as pods do.
fn frame() -> Vec<u8> {
    let mut state = 1u64;
    let mut text = Vec::new();
    while text.len() < FRAME {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let line = format!(
            "{{\"kind\":\"Pod\",\"uid\":\"{state:016x}\",\"status\":\"Running\",\"node\":\"node-07\"}}"
        );
        text.extend_from_slice(line.as_bytes());
    }
    text.truncate(FRAME);
    text
}

fn framing(c: &mut Criterion) {
    let mut group = c.benchmark_group("one frame of 1 MiB");
    group.throughput(Throughput::Bytes(FRAME as u64));
    let frame = frame();
    let mut compressor = zstd::bulk::Compressor::new(1).unwrap();
    group.bench_function("zstd 1", |b| b.iter(|| compressor.compress(&frame).unwrap()));
    let stored = compressor.compress(&frame).unwrap();
    let mut decompressor = zstd::bulk::Decompressor::new().unwrap();
    let mut plain = vec![0; FRAME];
    group.bench_function("zstd decompression", |b| {
        b.iter(|| decompressor.decompress_to_buffer(&stored, plain.as_mut_slice()).unwrap());
    });
    group.bench_function("SHA-256", |b| {
        b.iter(|| <sha2::Sha256 as sha2::Digest>::digest(&frame));
    });
    group.finish();
}

/// A snapshot's data key, as a backup seals it and a restore opens it.
fn seals(c: &mut Criterion) {
    let object = Sha256([7; 32]);
    let data_key = DataKey::generate(Subject::Snapshot(SnapshotId(7)), &mut system_rng());
    let mut group = c.benchmark_group("seal of a snapshot");
    for kem in [Kem::XWing, Kem::X25519] {
        let identity = Arc::new(HpkeIdentity::generate(kem, &mut system_rng()).unwrap());
        let mut keys = KeySet::new();
        keys.add(identity, KeyState::Sealing);
        keys.sign_with(SigningKey::generate(&mut system_rng()));
        let write = || {
            let rng = &mut system_rng();
            at_once(seal_data_key(&data_key, NewSeal::first(object), &keys, rng)).unwrap()
        };
        group.bench_function(format!("{kem:?}, signed"), |b| b.iter(write));
        let seal = write();
        let cluster = ClusterName::default();
        group.bench_function(format!("{kem:?}, verified and opened"), |b| {
            b.iter(|| {
                let mut asked = Asked::default();
                let judged = judge_seal(&seal, object, Some(&cluster), &keys, &mut asked);
                at_once(judged).unwrap().standing
            });
        });
    }
    group.finish();
}

criterion_group!(benches, sealing, values, framing, seals);
criterion_main!(benches);
