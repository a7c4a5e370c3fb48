//! The formats that other programs read.

use super::*;

/// The members that the schema of SARIF 2.1.0 requires, and its words.
#[test]
fn sarif() {
    let mut facts = good();
    first(&mut facts).plain = Fact::unknown("x");
    first(&mut facts).version = known("3.4.45".into());
    let document = judged(&facts).sarif();
    let run = &document["runs"][0];
    assert_eq!(
        (document["version"].as_str(), run["tool"]["driver"]["name"].as_str()),
        (Some("2.1.0"), Some("strongroom"))
    );
    let rules: BTreeSet<_> = run["tool"]["driver"]["rules"]
        .as_array()
        .unwrap()
        .iter()
        .map(|rule| rule["id"].as_str().unwrap())
        .collect();
    let mut kinds = BTreeSet::new();
    for result in run["results"].as_array().unwrap() {
        assert!(
            rules.contains(result["ruleId"].as_str().unwrap())
                && result["message"]["text"].is_string()
        );
        let (kind, level) = (result["kind"].as_str().unwrap(), result["level"].as_str().unwrap());
        // A level other than none goes with the kind fail only.
        assert_eq!(kind == "fail", level != "none");
        kinds.insert(kind.to_owned());
    }
    let kinds: Vec<_> = kinds.iter().map(String::as_str).collect();
    assert_eq!(kinds, ["fail", "notApplicable", "open", "pass"]);
}
