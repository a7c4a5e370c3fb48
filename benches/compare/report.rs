//! The table and the chart.

use std::fmt::Write;

use crate::suite::{
    AGE, BACKUP, DEEP, ETCDUTL, FLOOR, Job, MEMBER, RESTIC, RESTORE, Results, Row, SAVE, STREAM,
};

const MIB: f64 = 1_048_576.0;

const JOBS: [(Job, &str); 4] = [
    (Job::Backup, "Backup"),
    (Job::RestoreToFile, "Restore to a file"),
    (Job::RestoreMember, "Restore to a directory that etcd starts from"),
    (Job::Prove, "Verify"),
];

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

fn wall(row: &Row) -> f64 {
    median(row.costs.iter().map(|cost| cost.wall))
}

/// `page` with what stands between its two marks of this name replaced.
pub fn put(page: &str, name: &str, table: &str) -> String {
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->\n"));
    let (before, rest) = page.split_once(&begin).expect("the page's mark");
    let (_, after) = rest.split_once(&end).expect("the page's second mark");
    format!("{before}{begin}{table}{end}{after}")
}

/// Markdown: medians with the range of wall times, ratios within the run, targets.
pub fn table(results: &Results) -> String {
    let Results { database, entries, runs, rows, fetched } = results;
    let mut out = format!(
        "etcd 3.5, {:.0} MiB of Kubernetes-shaped database ({entries} entries), tmpfs, medians of {runs} runs side by side.\n\n",
        *database as f64 / MIB
    );
    for (job, title) in JOBS {
        let backup = job == Job::Backup;
        let reference = rows.iter().find(|row| row.job == job).map_or(1.0, wall);
        let _ = writeln!(
            out,
            "| {title} | wall (range) | ratio | CPU | etcd's CPU | peak memory | stored |"
        );
        let _ = writeln!(out, "|---|---|---|---|---|---|---|");
        for row in rows.iter().filter(|row| row.job == job) {
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
    let [stream, backup, save, restic] =
        [STREAM, BACKUP, SAVE, RESTIC].map(|name| results.row(name));
    let [restore, age, member, etcdutl, deep] =
        [RESTORE, AGE, MEMBER, ETCDUTL, DEEP].map(|name| results.row(name));
    let step = |row: &Row, at: usize| median(row.steps.iter().map(|steps| steps[at]));
    let _ = writeln!(
        out,
        "`etcdctl snapshot save` {:.2} s + `zstd` {:.2} s + `age` {:.2} s; `age -d | zstd -d` {:.2} s + `etcdutl` {:.2} s. \
         `get` fetches {:.1} % of the stored bytes for the key changed last, {:.0} % for the first one written.\n",
        step(save, 0),
        step(save, 1),
        step(save, 2),
        step(etcdutl, 0),
        step(etcdutl, 1),
        fetched[0] * 100.0,
        fetched[1] * 100.0,
    );
    let cpu = |row: &Row| median(row.costs.iter().map(|cost| cost.cpu));
    let mut target = |name: &str, got: String, met: bool| {
        let _ = writeln!(out, "- {name}: {got}, **{}**", if met { "met" } else { "missed" });
    };
    let peak = [backup, restore].iter().flat_map(|row| &row.costs).map(|cost| cost.rss).max();
    let peak = peak.unwrap_or(0) as f64 / MIB;
    let times = |ratio: f64| format!("{ratio:.2} ×");
    let ratio = cpu(backup) / cpu(results.row(FLOOR));
    target("processor time of a backup ≤ 1.3 × zstd and SHA-256 alone", times(ratio), ratio <= 1.3);
    let ratio = wall(backup) / wall(stream);
    target("backup ≤ 1.5 × the bare stream", times(ratio), ratio <= 1.5);
    let ratio = wall(restore) / wall(age);
    target("restore ≤ 1.1 × `age -d | zstd -d`", times(ratio), ratio <= 1.1);
    target("peak memory ≤ 96 MiB for both", format!("{peak:.0} MiB"), peak <= 96.0);
    let ratio = backup.stored as f64 / restic.stored as f64;
    target("stored ≤ restic's", times(ratio), ratio <= 1.0);
    let ratio = wall(member) / wall(etcdutl);
    target("member ≤ 0.6 × age + zstd + etcdutl", times(ratio), ratio <= 0.6);
    let ratio = wall(deep) / wall(restore);
    target("verify --deep ≤ 2 × restore to a file", times(ratio), ratio <= 2.0);
    target(
        "get ≤ 5 % of the stored bytes",
        format!("{:.1} %", fetched[1] * 100.0),
        fetched[1] <= 0.05,
    );
    out
}

pub fn levels(rows: &[(i32, f64, f64)]) {
    println!("| zstd level | MB/s of one core | ratio |\n|---|---|---|");
    for (level, speed, ratio) in rows {
        println!("| {level} | {speed:.0} | {ratio:.2} |");
    }
}

pub fn memory(rows: &[[u64; 6]]) {
    println!(
        "| database | entries | backup | restore --output | restore --data-dir | verify --deep |\n|---|---|---|---|---|---|"
    );
    for [mib, entries, peaks @ ..] in rows {
        let peaks = peaks.map(|bytes| format!("{:.0} MiB", bytes as f64 / MIB));
        println!("| {mib} MiB | {entries} | {} |", peaks.join(" | "));
    }
}

/// Horizontal bars of the median wall times, legible on light and dark ground.
pub fn chart(results: &Results) -> String {
    const BAR: f64 = 22.0;
    const STEP: f64 = 32.0;
    const LEFT: f64 = 380.0;
    const WIDTH: f64 = 400.0;
    let longest = results.rows.iter().map(wall).fold(0.0, f64::max);
    let height = STEP * (results.rows.len() as f64 + 2.0 * JOBS.len() as f64 - 1.5);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 880 {height}\" font-family=\"sans-serif\" font-size=\"14\">\n\
         <style>text{{fill:#57606a}}@media(prefers-color-scheme:dark){{text{{fill:#c9d1d9}}}}.ours{{fill:#2f81f7}}.theirs{{fill:#8b949e}}</style>\n"
    );
    let mut y = 0.0;
    for (job, title) in JOBS {
        y += STEP;
        let _ =
            writeln!(out, "<text x=\"0\" y=\"{y}\" font-weight=\"bold\">{title}, seconds</text>");
        y += STEP - BAR;
        for row in results.rows.iter().filter(|row| row.job == job) {
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
