//! What a Prometheus knows of the cluster: whether it scrapes etcd, and what it alerts on.

use std::collections::BTreeSet;

use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Url;

use super::super::fact::Fact;
use super::PROBE;
use super::http::Session;
use crate::error::{Error, Result};

/// Each member that is scraped has such a series, with its id (etcd: server/etcdserver/metrics.go).
const SCRAPED: &str = "/api/v1/query?query=count%20by%20%28server_id%29%20%28etcd_server_id%29";
const RULES: &str = "/api/v1/rules?type=alert";

/// What Prometheus said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Monitoring {
    /// Members of etcd that are scraped, of any cluster.
    pub(crate) scraped: BTreeSet<u64>,
    /// Alerts on metrics of etcd.
    pub(crate) of_etcd: usize,
    /// Alerts on metrics of this program.
    pub(crate) of_backups: usize,
}

#[derive(Deserialize)]
struct Answer<T> {
    data: T,
}

#[derive(Deserialize)]
struct Vector {
    result: Vec<Sample>,
}

#[derive(Deserialize)]
struct Sample {
    metric: Labels,
}

#[derive(Deserialize)]
struct Labels {
    server_id: Option<String>,
}

#[derive(Deserialize)]
struct Groups {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    query: String,
}

/// Asks Prometheus, which `http://HOST:PORT` is, perhaps with a path.
///
/// # Errors
/// [`Usage`](crate::ErrorKind::Usage) for another kind of URL.
pub(crate) async fn read(url: Option<&str>) -> Result<Fact<Monitoring>> {
    let Some(url) = url else {
        return Ok(Fact::unknown("needs the URL of a Prometheus (--prometheus)"));
    };
    let wrong = || Error::usage("--prometheus is not http://HOST:PORT");
    let parsed = Url::parse(url).map_err(|_| wrong())?;
    let host = parsed.host_str().ok_or_else(wrong)?.to_owned();
    if parsed.scheme() != "http" || !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(wrong().hint("forward its port to this host"));
    }
    let port = parsed.port_or_known_default().unwrap_or(9090);
    let path = parsed.path().trim_end_matches('/');
    Ok(Fact::read(ask(&host, port, path).await, format!("Prometheus on {host}:{port}")))
}

async fn ask(host: &str, port: u16, path: &str) -> std::result::Result<Monitoring, String> {
    let bare = host.trim_matches(['[', ']']);
    let connected = timeout(PROBE, TcpStream::connect((bare, port))).await;
    let stream = connected.map_err(|_| format!("{host}:{port}: no connection within {PROBE:?}"))?;
    let stream = stream.map_err(|error| format!("{host}:{port}: {error}"))?;
    let mut session = Session::new(stream, format!("{host}:{port}")).await?;
    let mut pages = Vec::new();
    for query in [SCRAPED, RULES] {
        let answer = session.get(&format!("{path}{query}")).await?;
        if !answer.is_ok() {
            return Err(format!("Prometheus answers HTTP {} to {query}", answer.status));
        }
        pages.push(answer.body);
    }
    let [scraped, rules] = pages.as_slice() else { return Err("no answer".into()) };
    parse(scraped, rules).ok_or_else(|| "not the answer of Prometheus".into())
}

fn parse(scraped: &[u8], rules: &[u8]) -> Option<Monitoring> {
    let scraped: Answer<Vector> = serde_json::from_slice(scraped).ok()?;
    let rules: Answer<Groups> = serde_json::from_slice(rules).ok()?;
    let ids = scraped.data.result.iter().filter_map(|sample| sample.metric.server_id.as_deref());
    let scraped = ids.filter_map(|id| u64::from_str_radix(id, 16).ok()).collect();
    let rules: Vec<_> = rules.data.groups.iter().flat_map(|group| &group.rules).collect();
    let with = |prefix: &str| rules.iter().filter(|rule| rule.query.contains(prefix)).count();
    Some(Monitoring { scraped, of_etcd: with("etcd_"), of_backups: with("strongroom_") })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Prometheus 2.42 answers.
    #[test]
    fn what_prometheus_says() {
        let members = br#"{"status":"success","data":{"resultType":"vector","result":[
            {"metric":{"server_id":"ef46ec93427fc7b1"},"value":[1795764000.1,"2"]},{"metric":{"server_id":"a"},"value":[1795764000.1,"1"]},
            {"metric":{},"value":[1795764000.1,"1"]},{"metric":{"server_id":"x"},"value":[1795764000.1,"1"]}]}}"#;
        let none = br#"{"status":"success","data":{"resultType":"vector","result":[]}}"#;
        let rules = br#"{"status":"success","data":{"groups":[{"name":"a","file":"/r.yml","interval":60,"limit":0,"rules":[
            {"state":"inactive","name":"NoLeader","query":"etcd_server_has_leader == 0","duration":60,"labels":{},"type":"alerting"},
            {"state":"inactive","name":"Down","query":"up == 0","duration":60,"labels":{},"type":"alerting"}]}]}}"#;
        let found = parse(members, rules).unwrap();
        let scraped = [0xef46_ec93_427f_c7b1, 10].into();
        assert_eq!(found, Monitoring { scraped, of_etcd: 1, of_backups: 0 });
        assert!(parse(none, rules).unwrap().scraped.is_empty());
        for bad in [&b"{}"[..], b"<html>", br#"{"status":"error","error":"x"}"#] {
            assert!(parse(bad, rules).is_none() && parse(members, bad).is_none());
        }
    }

    #[tokio::test]
    async fn only_http_without_a_password() {
        for url in ["https://a:1", "a:9090", "http://u:p@a", "", "file:///a"] {
            assert_eq!(read(Some(url)).await.err().unwrap().kind(), crate::ErrorKind::Usage);
        }
        assert!(read(None).await.unwrap().need().is_err());
    }
}
