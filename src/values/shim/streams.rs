//! Streams of messages: watches, elections observed, ranges that stream.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::sync::mpsc;
use tonic::Status;
use tonic::body::Body;

use super::frames::{Budget, Frames, framed};
use super::service::{MAX_ANSWERS, Shared};
use super::status::Failure;
use super::wire::{Singles, put_bytes, put_message, put_number};

/// Watches to cancel that etcd has not been told of, at most.
const CANCELS: usize = 64;

/// A `LeaderResponse` after another.
pub(super) fn key_values(
    response: Response<Body>,
    shared: Arc<Shared>,
    answers: Budget,
) -> Response<Body> {
    rewritten(response, answers, move |message| {
        let shared = Arc::clone(&shared);
        async move { shared.opened(|with| with.with_key_values(&message, 2)).await.map(Some) }
    })
}

/// A `RangeStreamResponse` after another: each holds a `RangeResponse`.
pub(super) fn range(
    response: Response<Body>,
    shared: Arc<Shared>,
    answers: Budget,
) -> Response<Body> {
    rewritten(response, answers, move |message| {
        let shared = Arc::clone(&shared);
        async move {
            let part = Singles::<1>::read(&message)?.message(1)?.unwrap_or_default();
            let opened = shared.opened(|with| with.with_key_values(part, 2)).await?;
            let mut out = Vec::new();
            super::wire::without(&message, &[1], &mut out)?;
            put_message(&mut out, 1, &opened);
            Ok(Some(out))
        }
    })
}

/// `request` with room for cancellations of ours among its messages.
pub(super) fn with_cancels(
    request: Request<Body>,
    frames: impl FnOnce(Body) -> Frames,
) -> (mpsc::Sender<i64>, Request<Body>) {
    let (sender, cancels) = mpsc::channel(CANCELS);
    let request = request.map(|body| {
        let state = (frames(body), cancels);
        Body::new(StreamBody::new(stream::try_unfold(state, |(mut frames, mut cancels)| async {
            let message = tokio::select! {
                biased;
                Some(id) = cancels.recv() => Some(cancel(id)),
                message = frames.next() => message?.map(|message| framed(&message)),
            };
            Ok::<_, Status>(message.map(|message| (Frame::data(message), (frames, cancels))))
        })))
    });
    (sender, request)
}

/// A `WatchRequest` that cancels.
fn cancel(id: i64) -> Bytes {
    let (mut cancel, mut request) = (Vec::new(), Vec::new());
    put_number(&mut cancel, 1, id);
    put_message(&mut request, 2, &cancel);
    framed(&request)
}

/// A `WatchResponse` after another. A watch with an event that does not open is cancelled, with the reason.
pub(super) fn watch(
    response: Response<Body>,
    shared: Arc<Shared>,
    answers: Budget,
    cancels: mpsc::Sender<i64>,
) -> Response<Body> {
    let cancelled = Arc::new(std::sync::Mutex::new(BTreeSet::new()));
    rewritten(response, answers, move |message| {
        let (shared, cancels, cancelled) =
            (Arc::clone(&shared), cancels.clone(), Arc::clone(&cancelled));
        async move {
            let fields = Singles::<4>::read(&message)?;
            let (id, created, ended) = (fields.number(2)?, fields.flag(3)?, fields.flag(4)?);
            {
                let mut cancelled =
                    cancelled.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if cancelled.contains(&id) {
                    // What etcd still sends before it hears of the end, and that end.
                    if created || ended {
                        cancelled.remove(&id);
                    }
                    if !created {
                        return Ok(None);
                    }
                }
            }
            match shared.opened(|with| with.watch_response(&message)).await {
                Ok(response) => Ok(response),
                Err(failure) => {
                    let reason = failure.status();
                    cancelled.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(id);
                    let _ = cancels.send(id).await;
                    let mut out = Vec::new();
                    put_message(&mut out, 1, fields.bytes(1)?);
                    put_number(&mut out, 2, id);
                    put_number(&mut out, 4, 1);
                    put_bytes(&mut out, 6, reason.message().as_bytes());
                    Ok(Some(out))
                }
            }
        }
    })
}

/// `response` with each message as `rewrite` has it, or left out.
fn rewritten<F, R>(response: Response<Body>, answers: Budget, rewrite: F) -> Response<Body>
where
    F: FnMut(Bytes) -> R + Send + 'static,
    R: Future<Output = Result<Option<Vec<u8>>, Failure>> + Send + 'static,
{
    if response.headers().contains_key(Status::GRPC_STATUS) {
        return response;
    }
    response.map(|body| {
        let state = Some((Frames::new(body, MAX_ANSWERS, answers), rewrite));
        Body::new(StreamBody::new(stream::try_unfold(state, |state| async {
            let Some((mut frames, mut rewrite)) = state else { return Ok(None) };
            while let Some(message) = frames.next().await? {
                if let Some(out) = rewrite(message).await.map_err(Failure::status)? {
                    return Ok(Some((Frame::data(framed(&out)), Some((frames, rewrite)))));
                }
            }
            let trailers = Frame::trailers(frames.trailers());
            Ok::<_, Status>(Some((trailers, None)))
        })))
    })
}
