//! JUnit's XML, for programs that show the results of tests.

use std::fmt::Write;

use super::fact::Status;
use super::outcome::Outcome;
use super::report::Report;
use crate::text::escape_markup;

impl Report {
    /// The report in JUnit's XML: a suite for each section, a case for each check and member. Unknown is an error, what is
    /// not applicable or waived is skipped.
    #[must_use]
    pub fn junit(&self) -> String {
        let mut xml = String::from(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"strongroom audit\">\n",
        );
        let mut sections: Vec<_> = self.checks.iter().map(|one| one.section).collect();
        sections.dedup();
        for section in sections {
            let of: Vec<_> = self.checks.iter().filter(|one| one.section == section).collect();
            let count = |status| {
                let counts = |one: &&&Outcome| one.status == status && one.waiver.is_none();
                of.iter().filter(counts).count()
            };
            let (failed, unknown) = (count(Status::Fail), count(Status::Unknown));
            let skipped = of.len() - failed - unknown - count(Status::Pass);
            let (name, time) = (section.name(), self.time.to_string());
            // Writing to a string does not fail.
            let _ = writeln!(
                xml,
                "  <testsuite name=\"{name}\" tests=\"{}\" failures=\"{failed}\" errors=\"{unknown}\" skipped=\"{skipped}\" timestamp=\"{}\">",
                of.len(),
                time.trim_end_matches('Z'),
            );
            of.iter().for_each(|one| xml.push_str(&case(one)));
            xml.push_str("  </testsuite>\n");
        }
        xml.push_str("</testsuites>\n");
        xml
    }
}

fn case(one: &Outcome) -> String {
    let member = one.member.as_deref().unwrap_or("cluster");
    let name = escape_markup(&format!("{}: {member}", one.title));
    let severity = one.severity.name();
    let seen = escape_markup(&one.said().join("\n"));
    let inner = match (&one.waiver, one.status) {
        (Some(waiver), _) => {
            let why = format!("waived until {} by {}: {}", waiver.until, waiver.by, waiver.reason);
            format!("<skipped message=\"{}\"/>", escape_markup(&why))
        }
        (None, Status::Fail) => {
            let remedy = escape_markup(one.remedy);
            format!("<failure type=\"{severity}\" message=\"{remedy}\">{seen}</failure>")
        }
        (None, Status::Unknown) => {
            format!("<error type=\"{severity}\" message=\"unknown\">{seen}</error>")
        }
        (None, Status::NotApplicable) => format!("<skipped message=\"{seen}\"/>"),
        (None, Status::Pass) => format!("<system-out>{seen}</system-out>"),
    };
    format!("    <testcase classname=\"{}\" name=\"{name}\">{inner}</testcase>\n", one.id)
}
