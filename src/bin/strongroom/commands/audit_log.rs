//! `audit-log …`

use std::process::ExitCode;

use serde_json::{Map, Value, json};
use strongroom::audit_log::{Entry, Filter, KeyFilter, KeyRange, Record, files, query, verify};
use strongroom::text::printable;
use strongroom::{ErrorKind, Result};

use super::inside::put_bytes;
use super::values::masters;
use super::{Context, FINDINGS};
use crate::args::{AuditCommand, QueryArgs, WriteOut};
use crate::output;

pub(super) async fn run(command: AuditCommand, context: &Context) -> Result<ExitCode> {
    match command {
        AuditCommand::Verify { file, keys } => {
            let report = verify(&files(&file)?, &*masters(&keys, context).await?)?;
            let findings: Vec<_> = report
                .findings
                .iter()
                .map(|finding| {
                    json!({
                        "file": finding.file.display().to_string(),
                        "line": finding.line,
                        "what": finding.problem.to_string(),
                        "tampered": finding.problem.kind() == Some(ErrorKind::Tampered),
                    })
                })
                .collect();
            let last = report.last.as_ref();
            let json = json!({
                "files": report.files, "lines": report.lines, "records": report.records,
                "first_seq": report.first_seq, "last_seq": last.map(|(seq, _)| seq),
                "chain": last.map(|(_, chain)| chain), "findings": findings, "omitted": report.omitted,
            });
            context.output.result(json, || {
                let mut lines: Vec<_> = report
                    .findings
                    .iter()
                    .map(|finding| {
                        format!("{}:{}: {}", finding.file.display(), finding.line, finding.problem)
                    })
                    .collect();
                if report.omitted > 0 {
                    lines.push(format!("and {} more", report.omitted));
                }
                lines.push(format!("records: {}, files: {}", report.records, report.files));
                if let Some((seq, chain)) = last {
                    lines.push(format!("last line {seq}, chain {chain}"));
                }
                lines.join("\n")
            })?;
            Ok(match (report.worst(), report.findings.is_empty()) {
                (Some(kind), _) => ExitCode::from(kind.exit_code()),
                (None, false) => ExitCode::from(FINDINGS),
                (None, true) => ExitCode::SUCCESS,
            })
        }
        AuditCommand::Query(args) => search(*args, context),
    }
}

fn search(args: QueryArgs, context: &Context) -> Result<ExitCode> {
    let key = match (args.touched, args.prefix) {
        (Some(key), _) => Some(KeyFilter::Exact(key.into())),
        (None, prefix) => prefix.map(|prefix| KeyFilter::Prefix(prefix.into())),
    };
    let filter = Filter {
        key,
        client: args.client,
        user: args.by,
        method: args.method,
        since: args.since,
        until: args.until,
        outcome: args.outcome,
    };
    let found = query(files(&args.file)?, filter);
    let json = context.output.format == WriteOut::Json;
    let mut failed = None;
    output::stream(|out| {
        if json {
            write!(out, "[")?;
        }
        let mut first = true;
        for entry in found {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    context.output.warn(&error.to_string());
                    failed = Some(error.kind());
                    continue;
                }
            };
            if json {
                let comma = if first { "" } else { "," };
                write!(out, "{comma}\n{}", document(&entry.record))?;
            } else {
                writeln!(out, "{}", line(&entry))?;
            }
            first = false;
        }
        if json {
            writeln!(out, "\n]")?;
        }
        Ok(())
    })?;
    Ok(failed.map_or(ExitCode::SUCCESS, |kind| ExitCode::from(kind.exit_code())))
}

/// As the line has it, with null for what it leaves out.
fn document(record: &Record) -> Value {
    let key = |range: &KeyRange| {
        let mut map = Map::new();
        let end = range.range_end.as_deref();
        put_bytes(&mut map, "key", Some(&range.key));
        put_bytes(&mut map, "range_end", end);
        map.insert("cut".into(), range.cut.into());
        map
    };
    json!({
        "time": format!("{:.6}", record.time),
        "client": record.client,
        "user": record.user,
        "peer": record.peer,
        "method": record.method,
        "keys": record.keys.iter().map(key).collect::<Vec<_>>(),
        "more": record.more,
        "subject": record.subject,
        "repeats": record.repeats,
        "revision": record.revision,
        "outcome": record.outcome,
        "duration_us": record.duration_us,
    })
}

fn line(entry: &Entry) -> String {
    let record = &entry.record;
    let who = record.client.as_deref().or(record.user.as_deref()).unwrap_or("-");
    let method = record.method.rsplit('/').next().unwrap_or_default();
    let mut keys: Vec<_> = record.keys.iter().map(range).collect();
    if record.more > 0 {
        keys.push(format!("and {} more", record.more));
    }
    keys.extend(record.subject.iter().map(|subject| printable(subject.as_bytes())));
    if record.repeats > 0 {
        keys.push(format!("(and {} more refused requests)", record.repeats));
    }
    format!(
        "{:.3}  {}  {}  {}  {}  {}",
        record.time,
        printable(who.as_bytes()),
        printable(record.peer.as_bytes()),
        printable(method.as_bytes()),
        keys.join(" "),
        printable(record.outcome.as_bytes())
    )
}

fn range(range: &KeyRange) -> String {
    let key = printable(&range.key);
    match range.range_end.as_deref() {
        None => key.to_string(),
        Some([0]) => format!("[{key}, …)"),
        Some(end) => format!("[{key}, {})", printable(end)),
    }
}
