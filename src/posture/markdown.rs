//! Markdown, for a person who reads all of a report: what was measured, by section.

use std::fmt::Write;

use super::fact::Status;
use super::kinds::Section;
use super::report::{Group, Report};

impl Report {
    /// The report in Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = String::from("# Audit of an etcd cluster\n\n");
        // Writing to a string does not fail.
        let _ = self.head(&mut text);
        let mut section: Option<Section> = None;
        for group in self.groups() {
            if section != Some(group.first.section) {
                section = Some(group.first.section);
                let _ = writeln!(text, "\n## {}", group.first.section.name());
            }
            let _ = put(&mut text, &group);
        }
        text
    }

    fn head(&self, text: &mut String) -> std::fmt::Result {
        let counts = self.counts;
        writeln!(text, "Measured on {} by {}.", self.time, self.tool)?;
        writeln!(
            text,
            "{} checks passed, {} failed, {} are unknown, {} are not applicable; {} are waived. Known vulnerabilities up to {}.\n",
            counts.pass,
            counts.fail,
            counts.unknown,
            counts.not_applicable,
            counts.waived,
            plain(&self.advisories_to),
        )?;
        text.push_str("| member | version |\n|---|---|\n");
        self.members.iter().try_for_each(|one| {
            let version = one.version.as_deref().unwrap_or("unknown");
            writeln!(text, "| {} | {} |", plain(&one.endpoint), plain(version))
        })
    }
}

fn put(text: &mut String, group: &Group<'_>) -> std::fmt::Result {
    let one = group.first;
    let status = match (&one.waiver, one.status) {
        (Some(_), _) => "waived",
        (None, status) => status.name(),
    };
    let severity = match one.status {
        Status::Fail | Status::Unknown => format!(" ({})", one.severity.name()),
        Status::Pass | Status::NotApplicable => String::new(),
    };
    writeln!(text, "\n### {}: {status}{severity}\n\n{}", one.id, plain(&one.title))?;
    let known_as = [("CIS", one.cis), ("STIG", one.stig)].into_iter();
    for (name, items) in known_as.filter(|(_, items)| !items.is_empty()) {
        writeln!(text, "\n{name}: {}", items.join(", "))?;
    }
    text.push('\n');
    for one in &group.all {
        let member = one.member.as_ref().map(|name| format!("{name}: ")).unwrap_or_default();
        for said in one.said() {
            writeln!(text, "- {}", plain(&format!("{member}{said}")))?;
        }
    }
    match (&one.waiver, one.status) {
        (Some(waiver), _) => {
            let (by, why) = (plain(&waiver.by), plain(&waiver.reason));
            writeln!(text, "\nWaived until {} by {by}: {why}", waiver.until)
        }
        (None, Status::Fail) => writeln!(text, "\nTo do: {}", plain(one.remedy)),
        _ => Ok(()),
    }
}

/// With a backslash before what Markdown would take for more than a character.
fn plain(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => safe.push(' '),
            c if "\\`*_{}[]<>|#!&~".contains(c) => safe.extend(['\\', c]),
            c => safe.push(c),
        }
    }
    safe
}
