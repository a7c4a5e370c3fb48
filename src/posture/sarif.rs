//! SARIF 2.1.0, for programs that show findings of many tools.

use serde_json::{Value, json};

use super::fact::{Severity, Status};
use super::outcome::Outcome;
use super::report::Report;

const SCHEMA: &str = "https://json.schemastore.org/sarif-2.1.0.json";

impl Report {
    /// The report in SARIF: what passed and what is not applicable too; unknown is `open`; waivers are suppressions.
    #[must_use]
    pub fn sarif(&self) -> Value {
        let rule = |rule: &super::report::Rule| {
            json!({
                "id": rule.id,
                "shortDescription": {"text": rule.title},
                "help": {"text": rule.remedy},
                "defaultConfiguration": {"level": level(rule.severity)},
                "properties": {"severity": rule.severity, "section": rule.section, "cis": rule.cis, "stig": rule.stig},
            })
        };
        json!({
            "$schema": SCHEMA,
            "version": "2.1.0",
            "runs": [{
                "tool": {"driver": {
                    "name": "strongroom",
                    "version": env!("CARGO_PKG_VERSION"),
                    "rules": self.rules.iter().map(rule).collect::<Vec<_>>(),
                }},
                "invocations": [{"executionSuccessful": true, "endTimeUtc": self.time.to_string()}],
                "results": self.checks.iter().map(result).collect::<Vec<_>>(),
            }],
        })
    }
}

const fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Critical | Severity::High => "error",
        Severity::Medium => "warning",
        Severity::Low | Severity::Info => "note",
    }
}

fn result(one: &Outcome) -> Value {
    let (kind, level) = match one.status {
        Status::Fail => ("fail", level(one.severity)),
        Status::Unknown => ("open", "none"),
        Status::Pass => ("pass", "none"),
        Status::NotApplicable => ("notApplicable", "none"),
    };
    let text: Vec<_> = std::iter::once(one.title.clone()).chain(one.said()).collect();
    let place = one.member.clone().unwrap_or_else(|| "cluster".into());
    let mut result = json!({
        "ruleId": one.id,
        "kind": kind,
        "level": level,
        "message": {"text": text.join("\n")},
        "locations": [{"logicalLocations": [{"fullyQualifiedName": place, "kind": "member"}]}],
        "properties": {"severity": one.severity},
    });
    if let (Some(waiver), Some(fields)) = (&one.waiver, result.as_object_mut()) {
        let why = format!("{} ({}, until {})", waiver.reason, waiver.by, waiver.until);
        fields.insert("suppressions".into(), json!([{"kind": "external", "justification": why}]));
    }
    result
}
