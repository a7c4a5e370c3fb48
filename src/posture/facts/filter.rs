//! The packet filter of the host, as `nft` prints it.

use std::io::ErrorKind;
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

/// What the rules for packets that arrive come to. Only the chains that the kernel itself calls are read, and of these the
/// plain forms of rules: what else may let a packet in makes the filter opaque.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Chains that drop what no rule accepts.
    pub(crate) closed: Vec<Chain>,
    /// Rules that name ports.
    pub(crate) rules: Vec<Rule>,
    /// There are rules that are not followed.
    pub(crate) opaque: Option<String>,
}

/// A chain for packets that arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    /// `inet filter input`
    pub(crate) name: String,
    pub(crate) family: Family,
}

/// Which packets a chain gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
    Both,
}

impl Family {
    fn of(chain: &Value) -> Option<Self> {
        match chain["family"].as_str() {
            Some("ip") => Some(Self::V4),
            Some("ip6") => Some(Self::V6),
            Some("inet") => Some(Self::Both),
            _ => None,
        }
    }

    /// All packets of `other` are among them.
    pub(crate) fn has(self, other: Self) -> bool {
        self == Self::Both || self == other
    }
}

/// A rule that names ports of TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) chain: Chain,
    /// From, to.
    ports: Vec<(u64, u64)>,
    pub(crate) effect: Effect,
}

/// What a rule does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Drops or rejects it wherever it comes from.
    Drops,
    /// Accepts it wherever it comes from.
    AcceptsAll,
    /// Depends on where it comes from.
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
    let known = parsed.map(|filter| match legacy(Path::new("/proc/net")) {
        None => filter,
        opaque => Filter { opaque, ..filter },
    });
    Fact::read(known, SOURCE)
}

/// Rules of the older iptables, which nft does not show.
fn legacy(proc_net: &Path) -> Option<String> {
    ["ip_tables_names", "ip6_tables_names"].into_iter().find_map(|name| {
        let path = proc_net.join(name);
        match std::fs::read_to_string(&path) {
            Ok(names) if names.trim().is_empty() => None,
            Ok(_) => Some("rules of iptables-legacy are in use".into()),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => Some(format!("{}: {error}", path.display())),
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
            let Some(family) = Family::of(chain).filter(|_| chain["hook"] == "input") else {
                continue;
            };
            let known = Chain { name: place(chain, "name"), family };
            if chain["policy"] == "drop" {
                filter.closed.push(known.clone());
            }
            arrivals.push(known);
        }
        for rule in all.iter().filter_map(|one| one.get("rule")) {
            let name = place(rule, "chain");
            if let Some(chain) = arrivals.iter().find(|chain| chain.name == name) {
                filter.rule(rule, chain);
            }
        }
        let mut tables = all.iter().filter_map(|one| one.get("table"));
        if let Some(table) = tables.find(|table| table["flags"].to_string().contains("dormant")) {
            filter.opaque = Some(format!("the table {} is dormant", place(table, "name")));
        }
        Ok(filter)
    }

    fn rule(&mut self, rule: &Value, chain: &Chain) {
        let parts = rule["expr"].as_array().map(Vec::as_slice).unwrap_or_default();
        let has = |name: &str| parts.iter().any(|part| part.get(name).is_some());
        let only = |names: &[&str]| {
            parts.iter().all(|part| names.iter().any(|name| part.get(name).is_some()))
        };
        let matches: Vec<_> = parts.iter().filter_map(|part| part.get("match")).collect();
        if has("xt") {
            self.opaque(chain, "has rules of iptables that nft does not show");
        } else if has("accept") {
            self.accepting(chain, &matches);
        } else if has("drop") || has("reject") {
            let is_plain = only(&["match", "counter", "log", "drop", "reject"]);
            self.dropping(chain, &matches, is_plain);
        } else if !only(&["match", "counter", "log", "limit", "mangle", "set"]) {
            // A jump, a map of verdicts, a queue.
            self.opaque(chain, "has a rule that goes on elsewhere");
        }
    }

    fn accepting(&mut self, chain: &Chain, matches: &[&Value]) {
        let ports = matches.iter().find_map(|one| destinations(one));
        let is_limited = matches.iter().any(|one| is_source(one));
        let is_open = matches.iter().all(|one| is_of_port(one));
        let effect = if is_limited { Effect::Other } else { Effect::AcceptsAll };
        match ports {
            _ if matches.iter().any(|one| is_harmless(one)) => {}
            None if is_limited => {}
            Some(ports) if is_limited || is_open => {
                self.rules.push(Rule { chain: chain.clone(), ports, effect });
            }
            _ => self.opaque(chain, "has a rule that accepts, and cannot be read"),
        }
    }

    /// `is_plain`: it drops all packets that match.
    fn dropping(&mut self, chain: &Chain, matches: &[&Value], is_plain: bool) {
        let effect = match matches {
            // The last rule of a chain that accepts by default.
            [] if is_plain && !self.closed.contains(chain) => {
                return self.closed.push(chain.clone());
            }
            [one] if is_plain && one.pointer("/left/payload/protocol") == Some(&"tcp".into()) => {
                Effect::Drops
            }
            _ => Effect::Other,
        };
        if let Some(ports) = matches.iter().find_map(|one| destinations(one)) {
            self.rules.push(Rule { chain: chain.clone(), ports, effect });
        }
    }

    fn opaque(&mut self, chain: &Chain, what: &str) {
        self.opaque = Some(format!("{} {what}", chain.name));
    }
}

/// `inet filter input`
fn place(value: &Value, name: &str) -> String {
    let words = ["family", "table", name].map(|name| value[name].as_str().unwrap_or_default());
    crate::text::clean(&words.join(" "))
}

/// Whether a match is of nothing but the port, the protocol, and whether the packet begins a connection.
fn is_of_port(one: &Value) -> bool {
    let text = |at: &str| one.pointer(at).and_then(Value::as_str);
    matches!(text("/left/payload/field"), Some("dport" | "protocol" | "nexthdr"))
        || matches!(text("/left/meta/key"), Some("l4proto" | "nfproto"))
        || text("/left/ct/key") == Some("state")
}

/// Whether a match leaves only packets that open no port to others: of this host, of connections that were accepted before,
/// of other protocols than TCP.
fn is_harmless(one: &Value) -> bool {
    const OTHERS: [&str; 6] = ["udp", "icmp", "icmpv6", "ipv6-icmp", "igmp", "esp"];
    let text = |at: &str| one.pointer(at).and_then(Value::as_str);
    let is_equal = matches!(one["op"].as_str(), Some("==" | "in"));
    let right = one["right"].as_str();
    let is_protocol = matches!(text("/left/payload/field"), Some("protocol" | "nexthdr"))
        || text("/left/meta/key") == Some("l4proto");
    let is_known = |state: &Value| matches!(state.as_str(), Some("established" | "related"));
    if text("/left/payload/protocol").is_some_and(|protocol| OTHERS.contains(&protocol)) {
        return true;
    }
    is_equal
        && match text("/left/meta/key") {
            Some("iif" | "iifname") => right == Some("lo"),
            _ if is_protocol => right.is_some_and(|protocol| OTHERS.contains(&protocol)),
            _ => text("/left/ct/key") == Some("state") && each(&one["right"]).iter().all(is_known),
        }
}

/// Whether a match is of where packets come from, and that is not everywhere.
fn is_source(one: &Value) -> bool {
    let is_narrow = |value: &Value| match (value.as_str(), value.pointer("/prefix/len")) {
        (Some(address), _) => !address.starts_with('@'),
        (None, Some(len)) => len.as_u64().is_some_and(|len| len > 0),
        (None, None) => false,
    };
    one.pointer("/left/payload/field").is_some_and(|field| field == "saddr")
        && matches!(
            one.pointer("/left/payload/protocol").and_then(Value::as_str),
            Some("ip" | "ip6")
        )
        && one["op"] == "=="
        && each(&one["right"]).iter().all(is_narrow)
}

/// The members of a set or list, or the one value.
fn each(right: &Value) -> &[Value] {
    let list = right.as_array().or_else(|| right["set"].as_array());
    list.map_or_else(|| std::slice::from_ref(right), Vec::as_slice)
}

/// The ports of a match of TCP's destination, if all of it can be read.
fn destinations(one: &Value) -> Option<Vec<(u64, u64)>> {
    let payload = one.pointer("/left/payload")?;
    let is_tcp = matches!(payload["protocol"].as_str(), Some("tcp" | "th"));
    if !is_tcp || payload["field"] != "dport" || one["op"] != "==" {
        return None;
    }
    let range = |value: &Value| match (value.as_u64(), value["range"].as_array()) {
        (Some(port), _) => Some((port, port)),
        (None, Some(ends)) => Some((ends.first()?.as_u64()?, ends.get(1)?.as_u64()?)),
        (None, None) => None,
    };
    each(&one["right"]).iter().map(range).collect()
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

    fn names(found: &Filter) -> Vec<&str> {
        found.closed.iter().map(|chain| chain.name.as_str()).collect()
    }

    const PORT: &str = r#"{"match":{"op":"==","left":{"payload":{"protocol":"tcp","field":"dport"}},"right":2379}}"#;

    /// A match of `left` with `right`.
    fn of(op: &str, left: &str, right: &str) -> String {
        format!(r#"{{"match":{{"op":"{op}","left":{{{left}}},"right":{right}}}}}"#)
    }

    fn field(protocol: &str, field: &str) -> String {
        format!(r#""payload":{{"protocol":"{protocol}","field":"{field}"}}"#)
    }

    #[test]
    fn what_rules_come_to() {
        let found = filter("drop", "");
        assert_eq!(names(&found), ["inet f in"]);
        let [one] = found.rules.as_slice() else { panic!("{found:?}") };
        assert!(one.names(2379) && one.names(2381) && !one.names(2382));
        assert_eq!(one.effect, Effect::Other);
        for (verdict, effect) in [("drop", Effect::Drops), ("accept", Effect::AcceptsAll)] {
            let found = filter("accept", &rule(&format!(r#"{PORT},{{"{verdict}":null}}"#)));
            assert!(found.closed.is_empty());
            assert_eq!(found.rules[1].effect, effect);
        }
        let last = filter("accept", &rule(r#"{"counter":{"packets":1}},{"reject":null}"#));
        assert_eq!(names(&last), ["inet f in"]);
        for bad in ["", "[]", "{}", r#"{"nftables":1}"#] {
            assert!(Filter::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    /// A rule drops a port only if nothing else decides.
    #[test]
    fn what_drops_a_port() {
        let limit = r#"{"limit":{"rate":5,"per":"second"}}"#;
        let address = of("==", &field("ip", "saddr"), "\"1.2.3.4\"");
        let udp = of("==", r#""meta":{"key":"l4proto"}"#, "\"udp\"");
        let invalid = of("in", r#""ct":{"key":"state"}"#, "\"invalid\"");
        for more in [limit, &address, &udp, &invalid] {
            let found = filter("accept", &rule(&format!(r#"{more},{PORT},{{"drop":null}}"#)));
            assert_eq!((names(&found).len(), found.rules[1].effect), (0, Effect::Other), "{more}");
        }
        let found = filter("accept", &rule(&format!(r#"{limit},{{"drop":null}}"#)));
        assert!(found.closed.is_empty());
    }

    /// What may let a packet in, and is not followed.
    #[test]
    fn what_is_opaque() {
        let accept = |what: &str| rule(&format!(r#"{what},{{"accept":null}}"#));
        let ports = |op: &str, right: &str| of(op, &field("tcp", "dport"), right);
        let source = |right: &str| of("==", &field("ip", "saddr"), right);
        let state = |right: &str| of("in", r#""ct":{"key":"state"}"#, right);
        let name = |right: &str| of("==", r#""meta":{"key":"iifname"}"#, right);
        for more in [
            rule(r#"{"xt":null},{"drop":null}"#),
            rule(r#"{"xt":{"type":"target","name":"ACCEPT"}}"#),
            rule(r#"{"jump":{"target":"x"}}"#),
            rule(&format!(r#"{PORT},{{"goto":{{"target":"x"}}}}"#)),
            rule(r#"{"vmap":{"key":{},"data":{"set":[]}}}"#),
            rule(r#"{"return":null}"#),
            rule(r#"{"accept":null}"#),
            accept(&ports(">=", "1024")),
            accept(&ports("!=", "22")),
            accept(&ports("==", "\"@open\"")),
            accept(&ports("==", r#"{"set":[22,{"elem":{"val":2379}}]}"#)),
            accept(&name("\"eth0\"")),
            accept(&format!(r#"{},{PORT}"#, name("\"eth0\""))),
            accept(&format!(r#"{},{PORT}"#, source(r#"{"prefix":{"addr":"0.0.0.0","len":0}}"#))),
            accept(&format!(r#"{},{PORT}"#, source("\"@clients\""))),
            accept(&state(r#"["established","new"]"#)),
            r#",{"table":{"family":"ip","name":"g","flags":"dormant"}}"#.into(),
        ] {
            assert!(filter("drop", &more).opaque.is_some(), "{more}");
        }
        for more in [
            rule(r#"{"counter":{"packets":1}}"#),
            accept(&name("\"lo\"")),
            accept(&state(r#"["established","related"]"#)),
            accept(&of("==", &field("udp", "dport"), "53")),
            accept(&of("==", &field("ip", "protocol"), "\"icmp\"")),
            accept(&ports("==", "22")),
            accept(&source("\"10.0.0.1\"")),
            accept(&format!(r#"{},{PORT}"#, source(r#"{"set":["10.0.0.1"]}"#))),
        ] {
            let found = filter("drop", &more);
            assert!(found.opaque.is_none(), "{more}");
            assert!(
                found.rules.iter().all(|rule| rule.effect == Effect::Other || !rule.names(2379))
            );
        }
        let new = accept(&format!(r#"{PORT},{}"#, state("\"new\"")));
        assert_eq!(filter("drop", &new).rules[1].effect, Effect::AcceptsAll);
    }

    /// Rules for other packets than those that arrive.
    #[test]
    fn chains_that_no_packet_comes_to() {
        let drop = rule(&format!(r#"{PORT},{{"drop":null}}"#));
        for chain in ["out", "in2"] {
            let more = drop.replace("\"in\"", &format!("\"{chain}\""));
            let hook = r#",{"chain":{"family":"inet","table":"f","name":"out","type":"filter","hook":"output","prio":0,"policy":"drop"}}"#;
            let found = filter("accept", &format!("{hook}{more}"));
            assert_eq!((found.rules.len(), found.closed.len()), (1, 0), "{chain}");
        }
        let of_v4 = RULES.replace("inet", "ip").replace("POLICY", "drop").replace("MORE", "");
        let found = Filter::parse(of_v4.as_bytes()).unwrap();
        assert_eq!(found.closed[0].family, Family::V4);
    }

    #[test]
    fn legacy_tables_that_cannot_be_read() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(legacy(dir.path()), None);
        std::fs::write(dir.path().join("ip_tables_names"), "").unwrap();
        assert_eq!(legacy(dir.path()), None);
        // Not a file: the error is another one than that it is not there.
        let v6 = dir.path().join("ip6_tables_names");
        std::fs::create_dir(&v6).unwrap();
        assert!(legacy(dir.path()).is_some());
        std::fs::remove_dir(&v6).unwrap();
        std::fs::write(&v6, "filter\n").unwrap();
        assert!(legacy(dir.path()).is_some());
    }

    #[tokio::test]
    async fn the_filter_of_another_root_is_unknown() {
        assert!(read(Path::new("/host")).await.need().is_err());
    }
}
