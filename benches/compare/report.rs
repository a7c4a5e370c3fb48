//! The table and the chart.

use std::fmt::Write;

use crate::suite::{Results, Row};

const MIB: f64 = 1_048_576.0;

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

fn wall(row: &Row) -> f64 {
    median(row.costs.iter().map(|cost| cost.wall))
}

/// `readme` with what stands between its two marks replaced.
pub fn put(readme: &str, table: &str) -> String {
    let (before, rest) = readme.split_once("<!-- bench -->\n").expect("README's mark");
    let (_, after) = rest.split_once("<!-- end of bench -->\n").expect("README's second mark");
    format!("{before}<!-- bench -->\n{table}<!-- end of bench -->\n{after}")
}

/// Markdown: medians with the range of wall times, ratios within the run, targets.
pub fn table(results: &Results) -> String {
    let Results { database, entries, runs, rows } = results;
    let mut out = format!(
        "etcd 3.5, {:.0} MiB of Kubernetes-shaped database ({entries} entries), tmpfs, medians of {runs} runs side by side.\n\n",
        *database as f64 / MIB
    );
    for (backup, title) in [(true, "Backup"), (false, "Restore to a file")] {
        let reference = rows.iter().find(|row| row.backup == backup).map_or(1.0, wall);
        let _ = writeln!(
            out,
            "| {title} | wall (range) | ratio | CPU | etcd's CPU | peak memory | stored |"
        );
        let _ = writeln!(out, "|---|---|---|---|---|---|---|");
        for row in rows.iter().filter(|row| row.backup == backup) {
            let walls = row.costs.iter().map(|cost| cost.wall);
            let (low, high) = (walls.clone().fold(f64::MAX, f64::min), walls.fold(0.0, f64::max));
            let cpu = median(row.costs.iter().map(|cost| cost.cpu));
            let rss = row.costs.iter().map(|cost| cost.rss).max().unwrap_or(0);
            let dash = |shown: bool, text: String| if shown { text } else { "–".into() };
            let _ = writeln!(
                out,
                "| {} | {:.2} s ({low:.2}–{high:.2}) | {:.2} | {} | {} | {} | {} |",
                row.name,
                wall(row),
                wall(row) / reference,
                dash(cpu > 0.0, format!("{cpu:.1} s")),
                dash(backup, format!("{:.1} s", median(row.etcd.iter().copied()))),
                dash(rss > 0, format!("{:.0} MiB", rss as f64 / MIB)),
                dash(row.stored > 0, format!("{:.1} MiB", row.stored as f64 / MIB)),
            );
        }
        out.push('\n');
    }
    let [stream, backup, save, restic, restore, age, _] = rows.as_slice() else { return out };
    let step = |at: usize| median(save.steps.iter().map(|steps| steps[at]));
    let _ = writeln!(
        out,
        "`etcdctl snapshot save` {:.2} s + `zstd` {:.2} s + `age` {:.2} s.\n",
        step(0),
        step(1),
        step(2)
    );
    let mut target = |name: &str, got: String, met: bool| {
        let _ = writeln!(out, "- {name}: {got}, **{}**", if met { "met" } else { "missed" });
    };
    let peak = [backup, restore].iter().flat_map(|row| &row.costs).map(|cost| cost.rss).max();
    let peak = peak.unwrap_or(0) as f64 / MIB;
    let times = |ratio: f64| format!("{ratio:.2} ×");
    let ratio = wall(backup) / wall(stream);
    target("backup ≤ 1.25 × the bare stream", times(ratio), ratio <= 1.25);
    let ratio = wall(save) / wall(backup);
    target("backup ≥ 3 × faster than save + zstd + age", times(ratio), ratio >= 3.0);
    let ratio = wall(restore) / wall(age);
    target("restore ≤ `age -d | zstd -d`", times(ratio), ratio <= 1.0);
    target("peak memory ≤ 96 MiB for both", format!("{peak:.0} MiB"), peak <= 96.0);
    let ratio = backup.stored as f64 / restic.stored as f64;
    target("stored ≤ restic's", times(ratio), ratio <= 1.0);
    out
}

pub fn levels(rows: &[(i32, f64, f64)]) {
    println!("| zstd level | MB/s of one core | ratio |\n|---|---|---|");
    for (level, speed, ratio) in rows {
        println!("| {level} | {speed:.0} | {ratio:.2} |");
    }
}

pub fn memory(rows: &[(u64, u64, u64)]) {
    println!("| database | peak of backup | peak of restore |\n|---|---|---|");
    for (mib, backup, restore) in rows {
        let mib_of = |bytes: &u64| format!("{:.0} MiB", *bytes as f64 / MIB);
        println!("| {mib} MiB | {} | {} |", mib_of(backup), mib_of(restore));
    }
}

/// Horizontal bars of the median wall times, legible on light and dark ground.
pub fn chart(results: &Results) -> String {
    const BAR: f64 = 22.0;
    const STEP: f64 = 32.0;
    const LEFT: f64 = 340.0;
    const WIDTH: f64 = 400.0;
    let longest = results.rows.iter().map(wall).fold(0.0, f64::max);
    let height = STEP * (results.rows.len() as f64 + 2.5);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 840 {height}\" font-family=\"sans-serif\" font-size=\"14\">\n\
         <style>text{{fill:#57606a}}@media(prefers-color-scheme:dark){{text{{fill:#c9d1d9}}}}.ours{{fill:#2f81f7}}.theirs{{fill:#8b949e}}</style>\n"
    );
    let mut y = 0.0;
    for (backup, title) in [(true, "Backup"), (false, "Restore to a file")] {
        y += STEP;
        let _ =
            writeln!(out, "<text x=\"0\" y=\"{y}\" font-weight=\"bold\">{title}, seconds</text>");
        y += STEP - BAR;
        for row in results.rows.iter().filter(|row| row.backup == backup) {
            let (width, seconds) = (WIDTH * wall(row) / longest, wall(row));
            let name = row.name.replace('`', "").replace("\\|", "|");
            let class = if name.starts_with("strongroom") { "ours" } else { "theirs" };
            let text = y + BAR * 0.72;
            let _ = writeln!(
                out,
                "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\">{name}</text>\
                 <rect class=\"{class}\" x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"3\"/>\
                 <text x=\"{:.1}\" y=\"{text}\">{seconds:.2}</text>",
                LEFT - 8.0,
                LEFT + width + 8.0,
            );
            y += STEP - 4.0;
        }
    }
    out + "</svg>\n"
}
