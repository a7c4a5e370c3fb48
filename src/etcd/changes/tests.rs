use proptest::prelude::*;

use super::*;
use crate::protobuf::{put_message, put_number};

/// One change of a history: a key, and the version it gets, 0 for a deletion.
type Made = (u8, i64);
/// Revisions from 2 on.
type History = Vec<Vec<Made>>;

/// Keys change at random; a put key may be deleted in the same revision, as nested transactions do.
fn history() -> impl Strategy<Value = History> {
    let step = prop::collection::vec((0..4_u8, any::<bool>()), 1..5);
    prop::collection::vec(step, 1..12).prop_map(|steps| {
        let mut versions = HashMap::new();
        let mut history = Vec::new();
        for step in steps {
            let mut made: Vec<Made> = Vec::new();
            for (key, deletes) in step {
                let version: &mut i64 = versions.entry(key).or_insert(0);
                let was_put = made.iter().any(|(other, _)| *other == key);
                if deletes && *version > 0 {
                    *version = 0;
                } else if was_put {
                    continue;
                } else {
                    *version += 1;
                }
                made.push((key, *version));
            }
            history.push(made);
        }
        history
    })
}

fn kv((key, version): Made, main: i64) -> Vec<u8> {
    let mut kv = Vec::new();
    put_message(&mut kv, 1, &[b'k', key]);
    if version > 0 {
        put_number(&mut kv, 2, 2);
    }
    put_number(&mut kv, 3, main);
    put_number(&mut kv, 4, version);
    if version > 0 {
        put_message(&mut kv, 5, &[key; 3]);
    }
    kv
}

#[derive(Clone, Debug, Default)]
struct Sent {
    events: Vec<(Made, i64)>,
    fragment: bool,
    created: bool,
    canceled: bool,
    compacted: i64,
    cluster: i64,
    term: i64,
}

fn sent(message: &Sent) -> Bytes {
    let mut bytes = Vec::new();
    let mut header = Vec::new();
    put_number(&mut header, 1, message.cluster + 1);
    put_number(&mut header, 2, 7);
    put_number(&mut header, 3, 1000);
    put_number(&mut header, 4, message.term + 1);
    put_message(&mut bytes, 1, &header);
    put_number(&mut bytes, 3, message.created.into());
    put_number(&mut bytes, 4, message.canceled.into());
    put_number(&mut bytes, 5, message.compacted);
    put_number(&mut bytes, 7, message.fragment.into());
    for (made, main) in &message.events {
        let mut event = Vec::new();
        put_number(&mut event, 1, (made.1 == 0).into());
        put_message(&mut event, 2, &kv(*made, *main));
        put_message(&mut bytes, 11, &event);
    }
    bytes.into()
}

fn events(history: &History) -> Vec<(Made, i64)> {
    let of = |(made, main): (&Vec<Made>, i64)| {
        made.iter().map(move |made| (*made, main)).collect::<Vec<_>>()
    };
    history.iter().zip(2..).flat_map(of).collect()
}

/// Answers as etcd groups them: at the end of each group a revision ends, but within fragments.
fn grouped(events: &[(Made, i64)], cuts: &[usize]) -> Vec<Sent> {
    let mut messages = Vec::new();
    let mut rest = events;
    let mut cuts = cuts.iter().cycle();
    while !rest.is_empty() {
        let at = cuts.next().map_or(1, |cut| 1 + cut % 5).min(rest.len());
        let (now, later) = rest.split_at(at);
        let splits = later.first().is_some_and(|(_, main)| now[at - 1].1 == *main);
        messages.push(Sent { events: now.to_vec(), fragment: splits, ..Sent::default() });
        // Progress and created are answers without events.
        if at.is_multiple_of(2) {
            messages.push(Sent { fragment: splits, ..Sent::default() });
        }
        rest = later;
    }
    messages.insert(messages.len() / 2, Sent { created: true, fragment: true, ..Sent::default() });
    messages
}

fn run(messages: &[Sent]) -> (Vec<Complete>, Result<(), Ended>) {
    let (mut revisions, mut complete) = (Revisions::new(2), Vec::new());
    let ended =
        messages.iter().try_for_each(|message| revisions.answer(&sent(message), &mut complete));
    (complete, ended)
}

fn records(complete: &[Complete]) -> Vec<(Revision, Vec<u8>)> {
    let of = |change: &Change| match &change.value {
        ChangeValue::Put(value) => (change.revision, value.to_vec()),
        ChangeValue::Deletion(key) => (change.revision, [b"-", &key[..]].concat()),
    };
    complete.iter().flat_map(|complete| complete.changes.iter().map(of)).collect()
}

fn expected(history: &History) -> Vec<(Revision, Vec<u8>)> {
    let mut all = Vec::new();
    for (made, main) in history.iter().zip(2..) {
        for (made, sub) in made.iter().zip(0..) {
            let deletion = [b"-k", &[made.0][..]].concat();
            let value = if made.1 == 0 { deletion } else { kv(*made, main) };
            all.push((Revision { main, sub }, value));
        }
    }
    all
}

proptest! {
    /// However etcd groups the events, the same records come of them, byte for byte.
    #[test]
    fn grouping_changes_nothing(history in history(), cuts in prop::collection::vec(0..9_usize, 1..9)) {
        let (complete, ended) = run(&grouped(&events(&history), &cuts));
        prop_assert_eq!(ended, Ok(()));
        prop_assert_eq!(records(&complete), expected(&history));
        for one in &complete {
            prop_assert_eq!(one.digest, digest_of(&one.changes));
        }
    }

    /// A new stream, which begins with the last complete revision, adds nothing and loses nothing.
    #[test]
    fn a_reconnect_changes_nothing(history in history(), cuts in prop::collection::vec(0..9_usize, 1..9), at: prop::sample::Index, compacts: bool) {
        let messages = grouped(&events(&history), &cuts);
        let (mut revisions, mut complete) = (Revisions::new(2), Vec::new());
        for message in &messages[..at.index(messages.len())] {
            revisions.answer(&sent(message), &mut complete).unwrap();
        }
        let last = revisions.last();
        let compacted = if compacts { last } else { 0 };
        let from = revisions.reconnect(compacted).unwrap();
        prop_assert_eq!(from, if compacts { last + 1 } else { last.max(2) });
        prop_assert_eq!(revisions.last(), last);
        let again: Vec<_> = events(&history).into_iter().filter(|(_, main)| *main >= from).collect();
        for message in grouped(&again, &cuts) {
            revisions.answer(&sent(&message), &mut complete).unwrap();
        }
        prop_assert_eq!(records(&complete), expected(&history));
    }

    /// What is missing, comes twice or in another order is refused, and what came before it is right.
    #[test]
    fn a_wrong_stream_is_refused(history in history(), at: prop::sample::Index, how in 0..3) {
        let mut revisions: Vec<_> = (2..).zip(&history).map(|(main, made)| Sent {
            events: made.iter().map(|made| (*made, main)).collect(),
            ..Sent::default()
        }).collect();
        let at = at.index(revisions.len());
        match how {
            // The last is not missed until another comes.
            0 if at + 1 < revisions.len() => { revisions.remove(at); }
            1 => revisions.insert(at, revisions[at].clone()),
            2 if at > 0 => revisions.swap(at - 1, at),
            _ => return Ok(()),
        }
        let (complete, ended) = run(&revisions);
        prop_assert!(matches!(ended, Err(Ended::Broken(_))), "{ended:?}");
        let (found, expected) = (records(&complete), expected(&history));
        prop_assert_eq!(&found[..], &expected[..found.len()]);
    }

    #[test]
    fn an_event_that_comes_twice_is_refused(history in history(), at: prop::sample::Index) {
        let mut events = events(&history);
        let at = at.index(events.len());
        events.insert(at, events[at]);
        prop_assert!(matches!(run(&grouped(&events, &[3])).1, Err(Ended::Broken(_))));
    }

    /// The revision that is compared after a reconnect shows that etcd's history is another one.
    #[test]
    fn another_history_is_noticed(history in history()) {
        let (mut revisions, mut complete) = (Revisions::new(2), Vec::new());
        for message in grouped(&events(&history), &[4]) {
            revisions.answer(&sent(&message), &mut complete).unwrap();
        }
        let from = revisions.reconnect(0).unwrap();
        let other = Sent { events: vec![((9, 1), from)], ..Sent::default() };
        prop_assert_eq!(revisions.answer(&sent(&other), &mut complete), Err(Ended::Parted(from)));
        prop_assert_eq!(records(&complete), expected(&history));
    }

    #[test]
    fn any_bytes_end_in_a_verdict(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Revisions::new(2).answer(&bytes.into(), &mut Vec::new());
    }
}

#[test]
fn each_reason_to_end() {
    let put = |main| ((1, 1), main);
    let one = |message: Sent| run(&[message]).1.unwrap_err();
    let canceled = Sent { canceled: true, ..Sent::default() };
    assert_eq!(one(Sent { compacted: 9, ..canceled.clone() }), Ended::Compacted(9));
    assert_eq!(one(canceled), Ended::Canceled(String::new()));
    let broken = |messages: &[Sent]| matches!(run(messages).1, Err(Ended::Broken(_)));
    let created = Sent { created: true, ..Sent::default() };
    assert!(!broken(std::slice::from_ref(&created)) && broken(&[created.clone(), created]));
    let of = |cluster, term| Sent { cluster, term, ..Sent::default() };
    assert!(broken(&[of(0, 1), of(1, 1)]) && broken(&[of(0, 2), of(0, 1)]));
    assert!(!broken(&[of(0, 1), of(0, 2)]));
    assert!(broken(&[Sent { events: vec![put(1)], ..Sent::default() }]));
    assert!(broken(&[Sent { events: vec![put(3)], ..Sent::default() }]));
}

#[test]
fn a_watch_does_not_start_where_etcd_has_compacted() {
    let mut revisions = Revisions::new(5);
    assert_eq!(revisions.reconnect(4), Some(5));
    assert_eq!(revisions.reconnect(5), None);
    let of = |main| sent(&Sent { events: vec![((1, 1), main)], ..Sent::default() });
    revisions.answer(&of(5), &mut Vec::new()).unwrap();
    assert_eq!([4, 5, 6].map(|compacted| revisions.reconnect(compacted)), [Some(5), Some(6), None]);
}

/// etcd tells its own revision in each answer: what is still to come is known before it is sent.
#[test]
fn an_answer_tells_how_far_behind_it_is() {
    let mut revisions = Revisions::new(5);
    assert_eq!(revisions.behind(), 0);
    let events = vec![((1, 1), 5), ((1, 2), 6)];
    revisions.answer(&sent(&Sent { events, ..Sent::default() }), &mut Vec::new()).unwrap();
    assert_eq!(revisions.behind(), 1000 - 6);
    // Another stream has told nothing yet.
    revisions.reconnect(0);
    assert_eq!(revisions.behind(), 0);
}

/// Events that come with a cancellation count: compaction overtakes a watcher behind what it was sent.
#[test]
fn what_came_before_the_end_is_kept() {
    let events = vec![((1, 1), 2), ((2, 1), 3)];
    let message = Sent { events, canceled: true, compacted: 9, ..Sent::default() };
    let (complete, ended) = run(&[message]);
    assert_eq!((complete.len(), ended), (2, Err(Ended::Compacted(9))));
}

#[test]
fn events_that_etcd_does_not_send() {
    let raw = |event: &[u8]| {
        let mut bytes = Vec::new();
        put_message(&mut bytes, 11, event);
        Revisions::new(2).answer(&bytes.into(), &mut Vec::new())
    };
    let event = |kind, kv: &[u8]| {
        let mut event = Vec::new();
        put_number(&mut event, 1, kind);
        put_message(&mut event, 2, kv);
        event
    };
    let good = kv((1, 1), 2);
    assert_eq!(raw(&event(0, &good)), Ok(()));
    assert!(raw(&event(2, &good)).is_err(), "a type that is not known");
    assert!(raw(&[]).is_err(), "no record");
    assert!(raw(&event(1, b"")).is_err(), "no key");
    assert!(raw(&event(0, &kv((1, 0), 2))).is_err(), "a put without a version");
}
