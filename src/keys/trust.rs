//! Who counts: whether the seals of a snapshot, a report or a journal give it a say in what is latest, kept,
//! replicated or sealed again (SPEC.md §5.3). A pure function; no clock decides.

use std::fmt;

use crate::format::{KeyId, KeyState};

/// What one seal that names the right object has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// The kind of the stanza that opened, and the state of its key; the seal's MAC is verified.
    pub opened: Option<(StanzaKind, KeyState)>,
    /// The trusted signers whose signatures are verified.
    pub signed_by: Vec<KeyId>,
    /// A signer who was revoked since signed it.
    pub revoked: bool,
}

/// Whether a stanza shows that its maker held a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StanzaKind {
    /// Made with the secret that opens it: `local`, `kms`.
    Secret,
    /// Made with a public key, by anyone: `hpke`, `age`.
    Public,
}

impl StanzaKind {
    /// Of a stanza's kind as it is written; of an unknown one nothing is assumed.
    #[must_use]
    pub fn of(kind: &str) -> Self {
        match kind {
            "local" | "kms" => Self::Secret,
            _ => Self::Public,
        }
    }
}

/// What an object's seals are worth to the keys and signers that are configured here, from least to most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// No key and no signer that is configured says anything about it.
    Unverified,
    /// It opens, and nobody who counts vouches for it.
    NotTrusted(Distrust),
    /// It counts, by keys that are about to be retired: a rotation is not finished.
    Retiring,
    /// It counts.
    Counts,
}

/// Why what opens is not trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Distrust {
    /// Only a retired key opens it.
    Retired,
    /// Only a key that does not seal yet opens it.
    Staged,
    /// Anyone can seal to a public key.
    Public,
    /// Signers are configured and none of them signed it.
    Unsigned,
    /// Only a signer that was revoked signed it.
    Revoked,
}

impl Standing {
    /// Every [`name`](Self::name).
    pub const NAMES: [&'static str; 4] = ["unverified", "not trusted", "retiring", "trusted"];

    /// Whether it may be the latest, push others out, be replicated and sealed again.
    #[must_use]
    pub const fn counts(self) -> bool {
        matches!(self, Self::Counts | Self::Retiring)
    }

    /// Stable name in output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unverified => "unverified",
            Self::NotTrusted(_) => "not trusted",
            Self::Retiring => "retiring",
            Self::Counts => "trusted",
        }
    }
}

impl serde::Serialize for Standing {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unverified | Self::Counts => f.write_str(self.name()),
            Self::NotTrusted(why) => write!(f, "not trusted: {why}"),
            Self::Retiring => f.write_str("trusted, by a key that is being retired"),
        }
    }
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Retired => "sealed by a retired key",
            Self::Staged => "sealed by a key that is not in use yet",
            Self::Public => "sealed to a public key and not signed",
            Self::Unsigned => "not signed by a trusted signer",
            Self::Revoked => "signed by a revoked signer",
        })
    }
}

/// What `seals` are worth where `signers` are trusted.
///
/// With signers, a signature of one of them is the only way to count. Without, it is a stanza that shows its maker held
/// a key which seals now, or did until the rotation under way.
pub fn standing(signers: &[KeyId], seals: impl IntoIterator<Item = Evidence>) -> Standing {
    seals.into_iter().map(|seal| of_one(signers, &seal)).max().unwrap_or(Standing::Unverified)
}

fn of_one(signers: &[KeyId], seal: &Evidence) -> Standing {
    if seal.signed_by.iter().any(|signer| signers.contains(signer)) {
        return Standing::Counts;
    }
    match seal.opened {
        // Whether it opens does not matter then, and is not tried.
        _ if !signers.is_empty() => Standing::NotTrusted(match seal.revoked {
            true => Distrust::Revoked,
            false => Distrust::Unsigned,
        }),
        None => Standing::Unverified,
        Some((StanzaKind::Public, _)) => Standing::NotTrusted(Distrust::Public),
        Some((StanzaKind::Secret, state)) => match state {
            KeyState::Primary | KeyState::Sealing => Standing::Counts,
            KeyState::Retiring => Standing::Retiring,
            KeyState::Staged => Standing::NotTrusted(Distrust::Staged),
            KeyState::Retired | KeyState::Destroyed => Standing::NotTrusted(Distrust::Retired),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Distrust::{Public, Retired, Revoked, Staged, Unsigned};
    use Standing::{Counts, NotTrusted, Unverified};
    use proptest::prelude::*;

    const STATES: [KeyState; 6] = [
        KeyState::Staged,
        KeyState::Sealing,
        KeyState::Primary,
        KeyState::Retiring,
        KeyState::Retired,
        KeyState::Destroyed,
    ];

    fn signer(n: u8) -> KeyId {
        KeyId([n; 16])
    }

    fn opened(kind: StanzaKind, state: KeyState) -> Evidence {
        Evidence { opened: Some((kind, state)), ..Evidence::default() }
    }

    fn signed(n: u8) -> Evidence {
        Evidence { signed_by: vec![signer(n)], ..Evidence::default() }
    }

    /// [S5.11]
    #[test]
    fn a_key_counts_by_its_state() {
        let want = [
            NotTrusted(Staged),
            Counts,
            Counts,
            Standing::Retiring,
            NotTrusted(Retired),
            NotTrusted(Retired),
        ];
        for (state, want) in STATES.into_iter().zip(want) {
            assert_eq!(standing(&[], [opened(StanzaKind::Secret, state)]), want, "{state:?}");
            let public = standing(&[], [opened(StanzaKind::Public, state)]);
            assert_eq!(public, NotTrusted(Public), "{state:?}");
        }
        assert_eq!(standing(&[], []), Unverified);
        assert_eq!(standing(&[], [Evidence::default()]), Unverified);
    }

    /// [S5.11]
    #[test]
    fn with_signers_only_a_signature_counts() {
        let primary = || opened(StanzaKind::Secret, KeyState::Primary);
        assert_eq!(standing(&[signer(1)], [primary()]), NotTrusted(Unsigned));
        assert_eq!(standing(&[signer(1)], [primary(), signed(2)]), NotTrusted(Unsigned));
        assert_eq!(standing(&[signer(1)], [primary(), signed(1)]), Counts);
        assert_eq!(standing(&[signer(1), signer(2)], [signed(2)]), Counts);
        assert_eq!(standing(&[signer(1)], [signed(2)]), NotTrusted(Unsigned));
        let revoked = Evidence { revoked: true, ..primary() };
        assert_eq!(standing(&[signer(1)], [revoked]), NotTrusted(Revoked));
        assert_eq!(standing(&[], [signed(1)]), Unverified, "nobody is trusted");
    }

    #[test]
    fn reads_as_it_is_printed() {
        let text = NotTrusted(Retired).to_string();
        assert_eq!(text, "not trusted: sealed by a retired key");
        assert_eq!(Unverified.to_string(), "unverified");
    }

    fn any_evidence() -> impl Strategy<Value = Evidence> {
        let kinds = prop_oneof![Just(StanzaKind::Secret), Just(StanzaKind::Public)];
        let states = proptest::sample::select(STATES.to_vec());
        let signers = proptest::collection::vec((0u8..4).prop_map(signer), 0..3);
        (proptest::option::of((kinds, states)), signers).prop_map(|(opened, signed_by)| Evidence {
            opened,
            signed_by,
            revoked: false,
        })
    }

    fn many() -> impl Strategy<Value = Vec<Evidence>> {
        proptest::collection::vec(any_evidence(), 0..6)
    }

    proptest! {
        /// Whoever can write to the repository can add seals: none of them takes anything away.
        #[test]
        fn one_more_seal_never_lessens(seals in many(), planted in any_evidence(), trusted in 0u8..3) {
            let signers: Vec<_> = (0..trusted).map(signer).collect();
            let before = standing(&signers, seals.clone());
            let after = standing(&signers, seals.into_iter().chain([planted]));
            prop_assert!(before <= after);
        }

        /// Without a key that seals or is retiring, and without a trusted signer, nothing is made to count.
        #[test]
        fn a_retired_key_never_counts(seals in many(), trusted in 0u8..3) {
            let signers: Vec<_> = (0..trusted).map(signer).collect();
            let helpless = seals.into_iter().map(|seal| Evidence {
                opened: seal.opened.map(|(kind, state)| (kind, match state {
                    KeyState::Sealing | KeyState::Primary | KeyState::Retiring => KeyState::Retired,
                    other => other,
                })),
                signed_by: seal.signed_by.into_iter().filter(|by| !signers.contains(by)).collect(),
                revoked: seal.revoked,
            });
            prop_assert!(!standing(&signers, helpless).counts());
        }

        #[test]
        fn the_order_of_seals_does_not_matter(seals in many(), trusted in 0u8..3) {
            let signers: Vec<_> = (0..trusted).map(signer).collect();
            let back: Vec<_> = seals.iter().rev().cloned().collect();
            prop_assert_eq!(standing(&signers, seals), standing(&signers, back));
        }
    }
}
