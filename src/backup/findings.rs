//! What is odd about a repository, in as many sentences as a person can use: others can plant millions of objects.

/// Sentences that are kept; the rest are counted.
const MOST: usize = 1000;

/// Sentences for a person.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    kept: Vec<String>,
    more: usize,
}

impl Findings {
    pub(super) fn push(&mut self, finding: String) {
        match self.kept.len() < MOST {
            true => self.kept.push(finding),
            false => self.more += 1,
        }
    }

    pub(super) fn extend(&mut self, findings: impl IntoIterator<Item = String>) {
        findings.into_iter().for_each(|finding| self.push(finding));
    }

    /// Sorted; a last sentence says how many more there are.
    pub(super) fn finish(mut self) -> Vec<String> {
        self.kept.sort();
        if self.more > 0 {
            self.kept.push(format!("… and {} more of that kind", self.more));
        }
        self.kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_the_rest_is_counted() {
        let mut findings = Findings::default();
        findings.extend((0..MOST + 7).map(|at| format!("{at}: unknown object")));
        let findings = findings.finish();
        assert_eq!(findings.len(), MOST + 1);
        assert_eq!(findings[MOST], "… and 7 more of that kind");
    }
}
