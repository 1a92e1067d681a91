//! The report for people: as text, and as a drawing of the timeline.
//!
//! Invariant: reads the documented shape of `report.json` and nothing else, and prints what it finds even when a newer
//! agent wrote fields this one does not know.

use serde_json::Value;
use std::fmt::Write as _;

/// Why a report could not be shown.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// The file could not be read.
    #[error("cannot read {path}; it is written by the initrd agent at boot")]
    Read {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is no report.
    #[error("{path} is not a report of initrd-agent")]
    Parse {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// Reads a report.
///
/// # Errors
/// [`ViewError`] when it cannot be read or is no JSON.
pub fn load(path: &std::path::Path) -> Result<Value, ViewError> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| ViewError::Read {
        path: shown.clone(),
        source,
    })?;
    serde_json::from_str(&text).map_err(|source| ViewError::Parse {
        path: shown,
        source,
    })
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or("-")
}

fn number(value: &Value, key: &str) -> u64 {
    value.get(key).and_then(Value::as_u64).unwrap_or(0)
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value
        .get(key)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// The report as text.
#[must_use]
pub fn for_people(report: &Value) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    line(format!(
        "boot       {} ({})",
        text(report, "boot"),
        text(report, "boot_id")
    ));
    line(format!("kernel     {}", text(report, "kernel")));
    if let Some(disk) = report.get("disk").filter(|d| !d.is_null()) {
        let mib = number(disk, "size") >> 20;
        line(format!(
            "disk       {} {mib} MiB, id {}",
            text(disk, "path"),
            text(disk, "id")
        ));
    }
    if let Some(usr) = report.get("usr").filter(|u| !u.is_null()) {
        line(format!(
            "usr        {} verified against {}",
            text(usr, "partition"),
            text(usr, "hash")
        ));
    }
    line(format!("protection {}", text(report, "tier")));
    line("partitions".to_owned());
    for p in list(report, "partitions") {
        line(format!(
            "  {:>3} {:<24} {:>9} MiB  {:<8} {:<11} {}",
            number(p, "number"),
            text(p, "label"),
            number(p, "size") >> 20,
            text(p, "activity"),
            text(p, "encryption"),
            text(p, "filesystem")
        ));
    }
    line("stages".to_owned());
    for stage in list(report, "stages") {
        line(format!(
            "  {:<9} {:<9} {:>8} ms",
            text(stage, "name"),
            text(stage, "outcome"),
            ms(stage)
        ));
        for step in list(stage, "steps") {
            line(format!(
                "      {:<40} {:>8} ms",
                text(step, "name"),
                ms(step)
            ));
        }
    }
    for warning in list(report, "warnings") {
        line(format!(
            "warning    {}: {}",
            text(warning, "code"),
            text(warning, "text")
        ));
    }
    out
}

/// Milliseconds with one decimal.
fn ms(span: &Value) -> String {
    let us = number(span, "end_us").saturating_sub(number(span, "start_us"));
    format!("{}.{}", us / 1000, us % 1000 / 100)
}

/// The timeline as an SVG drawing, one bar a stage and one a step.
#[must_use]
pub fn as_svg(report: &Value) -> String {
    const ROW: usize = 22;
    const LEFT: u64 = 330;
    const WIDTH: u64 = 900;
    let rows: Vec<(&Value, bool)> = list(report, "stages")
        .iter()
        .flat_map(|stage| {
            std::iter::once((stage, true)).chain(list(stage, "steps").iter().map(|s| (s, false)))
        })
        .collect();
    let start = rows
        .iter()
        .map(|(row, _)| number(row, "start_us"))
        .min()
        .unwrap_or(0);
    let end = rows
        .iter()
        .map(|(row, _)| number(row, "end_us"))
        .max()
        .unwrap_or(0)
        .max(start + 1);
    let scale = |us: u64| us.saturating_sub(start).saturating_mul(WIDTH) / (end - start);
    let height = ROW * (rows.len() + 1);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{height}\" font-family=\"monospace\" font-size=\"13\">\n",
        LEFT + WIDTH + 120
    );
    for (index, (row, is_stage)) in rows.iter().enumerate() {
        let y = ROW * index + 4;
        let x = LEFT + scale(number(row, "start_us"));
        let width = (scale(number(row, "end_us")) + LEFT)
            .saturating_sub(x)
            .max(1);
        let (fill, indent) = if *is_stage {
            ("#2b6cb0", 4)
        } else {
            ("#90cdf4", 20)
        };
        // Writing to a String cannot fail.
        let drawn = writeln!(
            svg,
            "<text x=\"{indent}\" y=\"{}\">{}</text><rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{}\" fill=\"{fill}\"/><text x=\"{}\" y=\"{}\">{} ms</text>",
            y + 13,
            escape(text(row, "name")),
            ROW - 6,
            x + width + 6,
            y + 13,
            ms(row)
        );
        debug_assert!(drawn.is_ok());
    }
    svg.push_str("</svg>\n");
    svg
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn sample() -> Value {
        serde_json::from_str(
            r#"{"boot":"first","boot_id":"00","kernel":"6.12","tier":"tpm2","disk":null,"partitions":[{"number":6,"label":"root-x86-64","size":1073741824,"activity":"created","encryption":"luks2-tpm2","filesystem":"btrfs"}],
            "stages":[{"name":"usr","outcome":"done","start_us":1000,"end_us":3500,"steps":[{"name":"a<b","start_us":1000,"end_us":2000}]}],"warnings":[{"code":"x","text":"y"}]}"#,
        )
        .unwrap()
    }

    #[test]
    fn people_see_partitions_stages_and_warnings() {
        let shown = for_people(&sample());
        for expected in [
            "boot       first",
            "root-x86-64",
            "1024 MiB",
            "2.5 ms",
            "1.0 ms",
            "x: y",
        ] {
            assert!(shown.contains(expected), "{expected} in\n{shown}");
        }
    }

    #[test]
    fn the_drawing_has_a_bar_a_row_and_escapes_names() {
        let svg = as_svg(&sample());
        assert_eq!(svg.matches("<rect").count(), 2);
        assert!(svg.contains("a&lt;b"));
    }

    #[test]
    fn an_empty_report_is_shown_and_not_divided_by() {
        assert!(as_svg(&Value::Null).ends_with("</svg>\n"));
        assert!(for_people(&Value::Null).contains("boot       -"));
    }
}
