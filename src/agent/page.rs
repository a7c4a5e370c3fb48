//! The status page: what there is to restore from, and what is overdue. No scripts, nothing from elsewhere.

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::StatusCode;
use jiff::Timestamp;

use super::operation::Operation;
use super::state::{Known, Shared, unix_ms};
use crate::status_server::Answer;
use crate::text::escape_markup as escape;

/// Snapshots in the timeline: the newest.
const SHOWN: usize = 500;
const STYLE: &str = "
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; margin-top: 2rem; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)); gap: 1rem; }
dt { opacity: .7; } dd { margin: 0; font-size: 1.4rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8884; vertical-align: top; }
svg { width: 100%; height: 5rem; background: #8881; } rect { fill: #2a78d6; }
.good { color: #2e7d32; font-weight: 600; } dd small { font-size: .75rem; opacity: .7; overflow-wrap: anywhere; }
.bad { color: #c62828; font-weight: 600; } @media (prefers-color-scheme: dark) { .bad { color: #ff8a80; } }";

/// The page as it is now.
pub(super) fn page(shared: &Shared) -> Answer {
    let known = shared.seen();
    let options = shared.current();
    let now = SystemTime::now();
    let cluster = escape(options.cluster().as_str());
    let version = env!("CARGO_PKG_VERSION");
    let mut html = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content=30>\
         <meta name=viewport content=\"width=device-width\"><title>{cluster}: strongroom</title>\
         <style>{STYLE}</style><h1>Backups of {cluster}</h1>"
    );
    // Writing to a string does not fail.
    let _ = verdict(&mut html, shared, &known)
        .and_then(|()| summary(&mut html, shared, &known, now))
        .and_then(|()| work(&mut html, shared, &known, now))
        .and_then(|()| warnings(&mut html, &known))
        .and_then(|()| timeline(&mut html, &known))
        .and_then(|()| {
            let name = escape(options.name());
            write!(html, "<p id=version>strongroom {version}, agent {name}</p>")
        });
    Answer { status: StatusCode::OK, kind: "text/html; charset=utf-8", body: html }
}

/// Whether all is well, or what is wrong.
fn verdict(html: &mut String, shared: &Shared, known: &Known) -> std::fmt::Result {
    let problems = problems(shared, known);
    match (*shared.leading.borrow(), problems.as_slice()) {
        (true, []) if known.newest.is_none() => {
            write!(
                html,
                "<p id=verdict>Starting: this agent leads, and there is no snapshot yet.</p>"
            )
        }
        (true, []) => write!(html, "<p id=verdict class=good>Healthy. This agent leads.</p>"),
        (false, []) => {
            write!(html, "<p id=verdict>Standby: another agent leads. Its page has the state.</p>")
        }
        (_, problems) => {
            write!(html, "<div id=verdict class=bad>Needs attention:<ul>")?;
            problems.iter().try_for_each(|problem| write!(html, "<li>{}", escape(problem)))?;
            write!(html, "</ul></div>")
        }
    }
}

fn problems(shared: &Shared, known: &Known) -> Vec<String> {
    let mut problems: Vec<_> = shared.ready().err().into_iter().collect();
    if !*shared.leading.borrow() {
        return problems;
    }
    if let Some(lost) = known.lost {
        problems.push(format!("snapshot {lost} was the newest, and is not there any more"));
    }
    for operation in Operation::ALL {
        let error = known.done.get(&operation).and_then(|run| run.error.as_ref());
        if let Some(error) = error {
            problems.push(format!("{operation}: {error}"));
        } else if let Some(due) = shared.overdue(known, operation) {
            problems.push(format!("{operation}: overdue since {}", time(due)));
        }
    }
    if shared.current().continuous {
        let interval = shared.current().record.interval;
        problems.extend(shared.recorded_now().problem(interval, SystemTime::now()));
    }
    problems
}

fn warnings(html: &mut String, known: &Known) -> std::fmt::Result {
    if known.warnings.is_empty() {
        return Ok(());
    }
    write!(html, "<h2>Warnings of the last backup</h2><ul id=warnings>")?;
    known.warnings.iter().try_for_each(|warning| write!(html, "<li>{}", escape(warning)))?;
    write!(html, "</ul>")
}

fn summary(html: &mut String, shared: &Shared, known: &Known, now: SystemTime) -> std::fmt::Result {
    let newest = known.newest.as_ref().map(|newest| {
        let (id, revision) = (newest.id, newest.revision);
        format!("{}<br><small>{id}, revision {revision}</small>", ago(newest.begun, now))
    });
    let stored: u64 = known.snapshots.iter().map(|(_, bytes)| bytes).sum();
    let recovery = known.recovery.map(|took| format!("{:.1} s", took.as_secs_f64()));
    write!(
        html,
        "<dl>{}<div><dt>Newest snapshot that counts</dt><dd id=point>{}</dd></div>\
         <div><dt>Last measured recovery time</dt><dd id=recovery>{}</dd></div>\
         <div><dt>Snapshots</dt><dd id=snapshots>{}{}</dd></div>\
         <div><dt>Stored</dt><dd>{:.1} MiB</dd></div></dl>",
        recovery_point(shared, now),
        newest.as_deref().unwrap_or("<span class=bad>none</span>"),
        recovery.as_deref().unwrap_or("no drill yet"),
        known.snapshots.len(),
        standings(known),
        stored as f64 / f64::from(1 << 20),
    )
}

/// How much a disaster would lose now, where changes are recorded.
fn recovery_point(shared: &Shared, now: SystemTime) -> String {
    if !shared.current().continuous || !*shared.leading.borrow() {
        return String::new();
    }
    let recorded = shared.recorded_now();
    let point = match recorded.until() {
        Some(until) => format!(
            "{}<br><small>recorded up to revision {}</small>",
            ago(until, now),
            recorded.revision
        ),
        None => "nothing is recorded yet".into(),
    };
    format!("<div><dt>Recovery point</dt><dd id=recorded>{point}</dd></div>")
}

/// How many snapshots do not simply count.
fn standings(known: &Known) -> String {
    let others = known.standings.iter().filter(|(name, count)| **name != "trusted" && **count > 0);
    let others: Vec<_> = others.map(|(name, count)| format!("{count} {name}")).collect();
    match others.is_empty() {
        true => String::new(),
        false => format!("<br><small id=trust>{}</small>", others.join(", ")),
    }
}

fn work(html: &mut String, shared: &Shared, known: &Known, now: SystemTime) -> std::fmt::Result {
    html.push_str("<h2>Work</h2><table id=work><tr><th>What<th>Schedule<th>Last<th>Next<th>State");
    let options = shared.current();
    for operation in Operation::ALL {
        let schedule = options.schedule(operation).map(ToString::to_string);
        let schedule = match operation {
            Operation::Copy if options.copy.url.is_some() => Some("after each backup".into()),
            _ => schedule,
        };
        let Some(schedule) = schedule else { continue };
        let run = known.done.get(&operation).cloned().unwrap_or_default();
        let last = run.last.map_or_else(|| "never".into(), |last| ago(last, now));
        let next = shared.due(known, &[operation]);
        let next = next
            .map_or_else(|| "-".into(), |(at, _)| if at <= now { "now".into() } else { time(at) });
        let running = known.running.get(&operation);
        let running = running.map(|since| format!("running since {}", time(*since)));
        let state = if let Some(error) = &run.error {
            format!("<span class=bad>{}</span>", escape(error))
        } else if let Some(due) = shared.overdue(known, operation) {
            let running = running.map(|running| format!(", {running}")).unwrap_or_default();
            format!("<span class=bad>overdue since {}</span>{running}", time(due))
        } else if let Some(running) = running {
            running
        } else {
            "ok".into()
        };
        let (name, schedule) = (operation.name(), escape(&schedule));
        write!(html, "<tr id={name}><td>{name}<td>{schedule}<td>{last}<td>{next}<td>{state}")?;
    }
    html.push_str("</table>");
    Ok(())
}

fn timeline(html: &mut String, known: &Known) -> std::fmt::Result {
    let shown =
        known.snapshots.get(known.snapshots.len().saturating_sub(SHOWN)..).unwrap_or_default();
    let (Some(first), Some(last)) = (shown.first(), shown.last()) else { return Ok(()) };
    let (begin, end) = (first.0.unix_ms(), last.0.unix_ms());
    let span = end.saturating_sub(begin).max(1) as f64;
    let largest = shown.iter().map(|(_, bytes)| *bytes).max().unwrap_or(1).max(1) as f64;
    let at = |ms: u64| time(UNIX_EPOCH + Duration::from_millis(ms));
    write!(
        html,
        "<h2>Snapshots from {} to {}</h2>\
         <svg id=timeline viewBox=\"0 0 1000 100\" preserveAspectRatio=none role=img>",
        at(begin),
        at(end)
    )?;
    for (id, bytes) in shown {
        let x = id.unix_ms().saturating_sub(begin) as f64 / span * 990.0;
        let height = 12.0 + 88.0 * (*bytes as f64 / largest).sqrt();
        write!(
            html,
            "<rect x=\"{x:.1}\" y=\"{:.1}\" width=3 height=\"{height:.1}\"><title>{id}: {}, {:.2} MiB</title></rect>",
            100.0 - height,
            at(id.unix_ms()),
            *bytes as f64 / f64::from(1 << 20),
        )?;
    }
    html.push_str("</svg>");
    Ok(())
}

fn time(at: SystemTime) -> String {
    let at = Timestamp::from_millisecond(unix_ms(at).cast_signed()).unwrap_or(Timestamp::MAX);
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// `<time>` with how long ago in it.
fn ago(at: SystemTime, now: SystemTime) -> String {
    let seconds = now.duration_since(at).unwrap_or_default().as_secs();
    let text = match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    };
    format!("<time title=\"{}\">{text}</time>", time(at))
}
