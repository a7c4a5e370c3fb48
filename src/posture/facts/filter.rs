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
    let parsed = list().await.and_then(|bytes| Filter::parse(&bytes));
    let known = parsed.map(|filter| match legacy() {
        None => filter,
        opaque => Filter { opaque, ..filter },
    });
    Fact::read(known, SOURCE)
}

/// Rules of the older iptables, which nft does not show.
fn legacy() -> Option<String> {
    ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"].into_iter().find_map(|path| {
        match std::fs::read_to_string(path) {
            Ok(names) if names.trim().is_empty() => None,
            Ok(_) => Some("rules of iptables-legacy are in use".into()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => Some(format!("{path}: {error}")),
        }
    })
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
            let family = matches!(chain["family"].as_str(), Some("inet" | "ip" | "ip6"));
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
        if !arrivals.contains(&chain) {
            return;
        }
        let parts = rule["expr"].as_array().map(Vec::as_slice).unwrap_or_default();
        let has = |name: &str| parts.iter().any(|part| part.get(name).is_some());
        if has("xt") {
            self.opaque = Some(format!("{chain} has rules of iptables that nft does not show"));
            return;
        }
        if ["jump", "goto", "vmap", "queue"].into_iter().any(has) {
            self.opaque = Some(format!("{chain} has rules that lead to others"));
            return;
        }
        let (drops, accepts) = (has("drop") || has("reject"), has("accept"));
        let matches: Vec<_> = parts.iter().filter_map(|part| part.get("match")).collect();
        if matches.is_empty() && drops {
            // The last rule of a chain that accepts by default.
            if !self.closed.contains(&chain) {
                self.closed.push(chain);
            }
        } else if let Some(ports) = matches.iter().find_map(|one| destinations(one)) {
            let is_of_all = matches.iter().all(|one| is_of_port(one));
            let effect = match (drops, accepts) {
                (true, _) if is_of_all => Effect::Drops,
                (false, true) if is_of_all => Effect::AcceptsAll,
                _ => Effect::Other,
            };
            self.rules.push(Rule { chain, ports, effect });
        } else if accepts && !matches.iter().any(|one| is_of_no_port(one)) {
            self.opaque = Some(format!("{chain} accepts packets by more than their port"));
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

/// Whether what matches reaches no port from elsewhere: the loopback device, what was asked for from here, ICMP.
fn is_of_no_port(one: &Value) -> bool {
    let text = |at: &str| one.pointer(at).and_then(Value::as_str);
    let right = &one["right"];
    let list = right["set"].as_array().or(right.as_array());
    let all = list.map_or_else(|| std::slice::from_ref(right), Vec::as_slice);
    let is_each = |names: &[&str]| {
        one["op"] != "!="
            && all.iter().all(|one| one.as_str().is_some_and(|one| names.contains(&one)))
    };
    match (text("/left/meta/key"), text("/left/ct/key"), text("/left/payload/field")) {
        (Some("iif" | "iifname"), ..) => is_each(&["lo"]),
        (Some("l4proto"), ..) | (.., Some("protocol" | "nexthdr")) => {
            is_each(&["icmp", "icmpv6", "ipv6-icmp"])
        }
        (_, Some("state"), _) => is_each(&["established", "related"]),
        _ => false,
    }
}

/// The ports of a match of TCP's destination; `None` for one that names none, or not in a way that is read here.
fn destinations(one: &Value) -> Option<Vec<(u64, u64)>> {
    let payload = one.pointer("/left/payload")?;
    let is_tcp = matches!(payload["protocol"].as_str(), Some("tcp" | "th"));
    if !is_tcp || payload["field"] != "dport" || !matches!(one["op"].as_str(), Some("==" | "in")) {
        return None;
    }
    let range = |value: &Value| match (value.as_u64(), value["range"].as_array()) {
        (Some(port), _) => Some((port, port)),
        (None, Some(ends)) => Some((ends.first()?.as_u64()?, ends.get(1)?.as_u64()?)),
        (None, None) => None,
    };
    let right = &one["right"];
    let all = right["set"].as_array().map_or_else(|| std::slice::from_ref(right), Vec::as_slice);
    all.iter().map(range).collect()
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
        let saddr = r#"{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"saddr"}},"right":"10.0.0.1"}}"#;
        let found = filter("accept", &rule(&format!(r#"{saddr},{port},{{"drop":null}}"#)));
        assert_eq!(found.rules[1].effect, Effect::Other);
        assert_eq!(filter("drop", "").opaque, None);
        let of = |key: &str, right: &str| {
            format!(r#"{{"match":{{"op":"==","left":{key},"right":{right}}}}},{{"accept":null}}"#)
        };
        let dport = r#"{"payload":{"protocol":"tcp","field":"dport"}}"#;
        for harmless in [
            of(r#"{"meta":{"key":"iifname"}}"#, r#""lo""#),
            of(r#"{"ct":{"key":"state"}}"#, r#"["established","related"]"#).replace("==", "in"),
            of(r#"{"meta":{"key":"l4proto"}}"#, r#""icmp""#),
        ] {
            assert_eq!(filter("drop", &rule(&harmless)).opaque, None, "{harmless}");
        }
        for opaque in [
            r#"{"xt":null},{"drop":null}"#.to_owned(),
            r#"{"jump":{"target":"other"}}"#.into(),
            r#"{"accept":null}"#.into(),
            of(r#"{"meta":{"key":"iifname"}}"#, r#""eth0""#),
            of(r#"{"ct":{"key":"state"}}"#, r#"{"set":["new","established"]}"#),
            of(r#"{"meta":{"key":"l4proto"}}"#, r#""tcp""#),
            of(dport, r#""@ports""#),
            of(dport, r#"{"set":[{"elem":{"val":2379}}]}"#),
            of(dport, "1024").replace("==", ">="),
        ] {
            assert!(filter("drop", &rule(&opaque)).opaque.is_some(), "{opaque}");
        }
        let elsewhere = rule(r#"{"accept":null}"#).replace(r#""chain":"in""#, r#""chain":"out""#);
        assert_eq!(filter("drop", &elsewhere), filter("drop", ""));
        for bad in ["", "[]", "{}", r#"{"nftables":1}"#] {
            assert!(Filter::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn the_filter_of_another_root_is_unknown() {
        assert!(read(Path::new("/host")).await.need().is_err());
    }
}
