//! The packet filter of the host, as `nft` prints it.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::timeout;

use super::super::fact::Fact;
use super::PROBE;

/// The longest list of rules that is read.
const MAX_LIST: u64 = 16 << 20;
const SOURCE: &str = "nft -j list ruleset";

/// What the rules for packets that arrive come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Chains that drop what no rule accepts.
    pub(crate) closed: Vec<String>,
    /// Rules that name ports.
    pub(crate) rules: Vec<Rule>,
    /// There are rules that cannot be read.
    pub(crate) opaque: Option<String>,
}

/// A rule that names ports of TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) chain: String,
    /// From, to.
    ports: Vec<(u64, u64)>,
    pub(crate) effect: Effect,
}

/// What a rule does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Drops or rejects it.
    Drops,
    /// Accepts it wherever it comes from.
    AcceptsAll,
    /// Depends on more than the port.
    Other,
}

impl Rule {
    pub(crate) fn names(&self, port: u16) -> bool {
        self.ports.iter().any(|(from, to)| (*from..=*to).contains(&u64::from(port)))
    }
}

/// Reads it, of this host alone.
pub(crate) async fn read(root: &Path) -> Fact<Filter> {
    if root != Path::new("/") {
        return Fact::unknown("the packet filter is that of this host: needs --host /");
    }
    // Rules of the older iptables, which nft does not show.
    let legacy = std::fs::read_to_string("/proc/net/ip_tables_names").unwrap_or_default();
    let parsed = list().await.and_then(|bytes| Filter::parse(&bytes));
    let known = parsed.map(|filter| match legacy.trim() {
        "" => filter,
        _ => Filter { opaque: Some("rules of iptables-legacy are in use".into()), ..filter },
    });
    Fact::read(known, SOURCE)
}

async fn list() -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("{SOURCE}: {error}");
    let mut command = Command::new("nft");
    command.args(["-j", "list", "ruleset"]).stdin(Stdio::null()).stderr(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().map_err(failed)?;
    let out = child.stdout.take().ok_or("nft has no output")?;
    let read = async {
        let mut bytes = Vec::new();
        let length = out.take(MAX_LIST).read_to_end(&mut bytes).await.map_err(failed)?;
        if length as u64 >= MAX_LIST {
            return Err(format!("{SOURCE}: more than {} MiB", MAX_LIST >> 20));
        }
        let status = child.wait().await.map_err(failed)?;
        let needs = "needs root, or the capability NET_ADMIN";
        status.success().then_some(bytes).ok_or_else(|| format!("{SOURCE}: {status}: {needs}"))
    };
    timeout(PROBE, read).await.unwrap_or_else(|_| Err(format!("{SOURCE}: not within {PROBE:?}")))
}

impl Filter {
    /// From the JSON of `nft`.
    ///
    /// # Errors
    /// That it is not that.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, String> {
        let not = || format!("{SOURCE}: not the answer of nft");
        let document: Value = serde_json::from_slice(json).map_err(|_| not())?;
        let all = document.get("nftables").and_then(Value::as_array).ok_or_else(not)?;
        let mut filter = Self::default();
        let mut arrivals = Vec::new();
        for chain in all.iter().filter_map(|one| one.get("chain")) {
            let family = matches!(chain["family"].as_str(), Some("inet" | "ip"));
            if chain["hook"] == "input" && family {
                arrivals.push(place(chain, "name"));
                if chain["policy"] == "drop" {
                    filter.closed.push(place(chain, "name"));
                }
            }
        }
        for rule in all.iter().filter_map(|one| one.get("rule")) {
            filter.rule(rule, &arrivals);
        }
        Ok(filter)
    }

    fn rule(&mut self, rule: &Value, arrivals: &[String]) {
        let chain = place(rule, "chain");
        let parts = rule["expr"].as_array().map(Vec::as_slice).unwrap_or_default();
        let has = |name: &str| parts.iter().any(|part| part.get(name).is_some());
        let drops = has("drop") || has("reject");
        let matches: Vec<_> = parts.iter().filter_map(|part| part.get("match")).collect();
        if has("xt") {
            self.opaque = Some(format!("{chain} has rules of iptables that nft does not show"));
        } else if matches.is_empty() {
            // The last rule of a chain that accepts by default.
            if drops && arrivals.contains(&chain) && !self.closed.contains(&chain) {
                self.closed.push(chain);
            }
        } else if let Some(ports) = matches.iter().find_map(|one| destinations(one)) {
            let effect = match (drops, has("accept") && matches.iter().all(|one| is_of_port(one))) {
                (true, _) => Effect::Drops,
                (false, true) => Effect::AcceptsAll,
                (false, false) => Effect::Other,
            };
            self.rules.push(Rule { chain, ports, effect });
        }
    }
}

/// `inet filter input`
fn place(value: &Value, name: &str) -> String {
    let words = ["family", "table", name].map(|name| value[name].as_str().unwrap_or_default());
    crate::text::clean(&words.join(" "))
}

/// Whether a match is of nothing but the port and the protocol.
fn is_of_port(one: &Value) -> bool {
    let text = |at: &str| one.pointer(at).and_then(Value::as_str);
    matches!(text("/left/payload/field"), Some("dport" | "protocol" | "nexthdr"))
        || text("/left/meta/key") == Some("l4proto")
}

/// The ports of a match of TCP's destination.
fn destinations(one: &Value) -> Option<Vec<(u64, u64)>> {
    let payload = one.pointer("/left/payload")?;
    let is_tcp = matches!(payload["protocol"].as_str(), Some("tcp" | "th"));
    if !is_tcp || payload["field"] != "dport" || one["op"] == "!=" {
        return None;
    }
    let range = |value: &Value| match (value.as_u64(), value["range"].as_array()) {
        (Some(port), _) => Some((port, port)),
        (None, Some(ends)) => Some((ends.first()?.as_u64()?, ends.get(1)?.as_u64()?)),
        (None, None) => None,
    };
    let right = &one["right"];
    let all = right["set"].as_array().map_or_else(|| std::slice::from_ref(right), Vec::as_slice);
    Some(all.iter().filter_map(range).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As nft 1.0.6 prints it.
    const RULES: &str = r#"{"nftables":[{"metainfo":{"version":"1.0.6"}},
        {"table":{"family":"inet","name":"f"}},
        {"chain":{"family":"inet","table":"f","name":"in","type":"filter","hook":"input","prio":0,"policy":"POLICY"}},
        {"rule":{"family":"inet","table":"f","chain":"in","expr":[
            {"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"saddr"}},"right":{"prefix":{"addr":"10.0.0.0","len":8}}}},
            {"match":{"op":"==","left":{"payload":{"protocol":"tcp","field":"dport"}},"right":{"set":[2379,{"range":[2380,2381]}]}}},
            {"accept":null}]}}MORE]}"#;

    fn filter(policy: &str, more: &str) -> Filter {
        Filter::parse(RULES.replace("POLICY", policy).replace("MORE", more).as_bytes()).unwrap()
    }

    fn rule(expr: &str) -> String {
        format!(r#",{{"rule":{{"family":"inet","table":"f","chain":"in","expr":[{expr}]}}}}"#)
    }

    #[test]
    fn what_rules_come_to() {
        let found = filter("drop", "");
        assert_eq!(found.closed, ["inet f in"]);
        let [one] = found.rules.as_slice() else { panic!("{found:?}") };
        assert!(one.names(2379) && one.names(2381) && !one.names(2382));
        assert_eq!(one.effect, Effect::Other);
        let port = r#"{"match":{"op":"==","left":{"payload":{"protocol":"tcp","field":"dport"}},"right":2379}}"#;
        for (verdict, effect) in [("drop", Effect::Drops), ("accept", Effect::AcceptsAll)] {
            let found = filter("accept", &rule(&format!(r#"{port},{{"{verdict}":null}}"#)));
            assert!(found.closed.is_empty());
            assert_eq!(found.rules[1].effect, effect);
        }
        let last = filter("accept", &rule(r#"{"counter":{"packets":1}},{"reject":null}"#));
        assert_eq!(last.closed, ["inet f in"]);
        assert!(filter("accept", &rule(r#"{"xt":null},{"drop":null}"#)).opaque.is_some());
        for bad in ["", "[]", "{}", r#"{"nftables":1}"#] {
            assert!(Filter::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn the_filter_of_another_root_is_unknown() {
        assert!(read(Path::new("/host")).await.need().is_err());
    }
}
