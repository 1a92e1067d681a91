//! The plan for people: systemd-repart's table, and a bar of the disk with a line to each partition's name.
//!
//! Invariant: without colours and a width the text is that of systemd-repart 262, character for character.

use crate::plan::{Activity, Plan, PlannedPartition};

use super::json::label;

const HEADER: [&str; 8] = [
    "TYPE", "LABEL", "UUID", "PART", "FILE", "RAW SIZE", "SIZE", "PADDING",
];
/// Numbers are aligned to the right.
const RIGHT: [bool; 8] = [false, false, false, true, false, true, true, true];
/// A column that has to give way keeps this much.
const NARROWEST: usize = 5;
/// Where there is no terminal.
const DEFAULT_WIDTH: usize = 80;

const UNDERLINE: &str = "\x1b[0;4m";
const GREY: &str = "\x1b[0;38;5;245m";
const GREEN: &str = "\x1b[0;32m";
const YELLOW: &str = "\x1b[0;33m";
const RESET: &str = "\x1b[0m";

/// How to draw.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    /// With a header.
    pub(super) legend: bool,
    pub(super) colour: bool,
    /// Columns of the terminal; `None` where there is none, and nothing is cut then.
    pub(super) width: Option<usize>,
    /// Columns of the bar where there is no terminal (`$COLUMNS`).
    pub(super) bar_width: Option<usize>,
}

struct Cell {
    text: String,
    colour: Option<&'static str>,
}

impl Cell {
    fn plain(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            colour: None,
        }
    }
}

/// Table, blank line, bar, blank line.
pub(super) fn render(plan: &Plan, style: Style) -> String {
    let mut out = table(plan, style);
    out.push('\n');
    out.push_str(&bar(plan, style));
    out.push('\n');
    out
}

fn table(plan: &Plan, style: Style) -> String {
    let mut rows: Vec<[Cell; 8]> = Vec::new();
    if style.legend {
        rows.push(HEADER.map(|title| Cell {
            text: title.to_owned(),
            colour: Some(UNDERLINE),
        }));
    }
    rows.extend(plan.deleted.iter().chain(&plan.partitions).map(row));
    if !plan.partitions.is_empty() {
        rows.push(sums(plan));
    }
    let mut widths = [0; 8];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(columns(&cell.text));
        }
    }
    if let Some(limit) = style.width {
        narrow(&mut widths, limit);
    }
    let mut out = String::new();
    for row in &rows {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .zip(RIGHT)
            .map(|((cell, width), right)| draw(cell, width, right, style.colour))
            .collect();
        let line = cells.join(" ");
        out.push_str(if style.colour { &line } else { line.trim_end() });
        out.push('\n');
    }
    out
}

fn row(partition: &PlannedPartition) -> [Cell; 8] {
    let changed = (partition.activity != Activity::Kept).then_some(UNDERLINE);
    let created = partition.activity == Activity::Created;
    let file = partition
        .definition()
        .and_then(|definition| definition.path.file_name())
        .map_or_else(
            || "-".to_owned(),
            |name| name.to_string_lossy().into_owned(),
        );
    [
        Cell::plain(partition.partition_type.name_or_uuid()),
        Cell::plain(label(partition)),
        Cell::plain(partition.uuid.to_string()),
        Cell::plain(partition.number.saturating_sub(1).to_string()),
        Cell::plain(file),
        Cell::plain(partition.size.to_string()),
        Cell {
            text: change(created, partition.old_size, partition.size),
            colour: changed,
        },
        Cell {
            text: change(created, partition.old_padding, partition.padding),
            colour: changed,
        },
    ]
}

/// A size that changes, or that is new.
pub(super) fn change(created: bool, old: u64, new: u64) -> String {
    if created {
        format!("→ {}", human(new))
    } else if old == new {
        human(new)
    } else {
        format!("{} → {}", human(old), human(new))
    }
}

fn sums(plan: &Plan) -> [Cell; 8] {
    let sum = |of: fn(&PlannedPartition) -> u64| {
        let total = plan.partitions.iter().map(of).fold(0, u64::saturating_add);
        Cell::plain(format!("Σ = {}", human(total)))
    };
    let empty = || Cell {
        text: String::new(),
        colour: Some(GREY),
    };
    [
        empty(),
        empty(),
        empty(),
        empty(),
        empty(),
        empty(),
        sum(|partition| partition.size),
        sum(|partition| partition.padding),
    ]
}

fn draw(cell: &Cell, width: usize, right: bool, colour: bool) -> String {
    let mut text: String = cell.text.clone();
    if columns(&text) > width {
        text = text.chars().take(width.saturating_sub(1)).collect();
        text.push('…');
    }
    let text = if right {
        format!("{text:>width$}")
    } else {
        format!("{text:<width$}")
    };
    match cell.colour.filter(|_| colour) {
        Some(start) => format!("{start}{text}{RESET}"),
        None => text,
    }
}

/// Takes from the widest column, one by one, until the row fits.
fn narrow(widths: &mut [usize; 8], limit: usize) {
    let gaps = widths.len() - 1;
    while widths.iter().sum::<usize>() + gaps > limit {
        match widths.iter_mut().max() {
            Some(widest) if *widest > NARROWEST => *widest -= 1,
            _ => return,
        }
    }
}

/// Labels hold no wide characters in practice: a character is a column.
fn columns(text: &str) -> usize {
    text.chars().count()
}

/// Bytes with a unit and, below ten of the next digit, one decimal, cut off: `300M`, `648.9M`.
pub(super) fn human(bytes: u64) -> String {
    const UNITS: [(u64, &str); 6] = [
        (1 << 60, "E"),
        (1 << 50, "P"),
        (1 << 40, "T"),
        (1 << 30, "G"),
        (1 << 20, "M"),
        (1 << 10, "K"),
    ];
    for (unit, suffix) in UNITS {
        if bytes >= unit {
            let tenths = u128::from(bytes % unit) * 10 / u128::from(unit);
            return if tenths == 0 {
                format!("{}{suffix}", bytes / unit)
            } else {
                format!("{}.{tenths}{suffix}", bytes / unit)
            };
        }
    }
    format!("{bytes}B")
}

fn bar(plan: &Plan, style: Style) -> String {
    let width = style.width.or(style.bar_width).unwrap_or(DEFAULT_WIDTH);
    // The outermost columns stay free.
    let cells = width.max(3) - 2;
    let mut owners: Vec<Option<usize>> = vec![None; cells];
    let mut starts = Vec::new();
    for (at, partition) in plan.partitions.iter().enumerate() {
        let cell = |offset: u64| {
            let scaled = u128::from(offset) * cells as u128 / u128::from(plan.disk_len.max(1));
            usize::try_from(scaled).unwrap_or(cells)
        };
        let start = cell(partition.offset).min(cells - 1);
        let end = cell(partition.end()).clamp(start + 1, cells);
        owners[start..end].fill(Some(at));
        starts.push(start);
    }
    let mut out = String::from(" ");
    out.push_str(&shades(&owners, style.colour));
    out.push('\n');
    for line in legend(plan, &starts, cells) {
        out.push(' ');
        out.push_str(&line);
        out.push('\n');
    }
    out
}

/// Partitions dark, in turns of two colours; free space light.
fn shades(owners: &[Option<usize>], colour: bool) -> String {
    let mut out = String::new();
    let mut green = false;
    let mut last = None;
    for owner in owners {
        if owner.is_some() && *owner != last {
            green = !green;
        }
        let (start, shade) = match (owner, green) {
            (Some(_), true) => (GREEN, '▒'),
            (Some(_), false) => (YELLOW, '▒'),
            (None, _) => (RESET, '░'),
        };
        if colour {
            out.push_str(start);
        }
        out.push(shade);
        last = *owner;
    }
    if colour {
        out.push_str(RESET);
    }
    out
}

/// One line a partition, the last one first: its name under its start, and the lines to those that follow.
fn legend(plan: &Plan, starts: &[usize], cells: usize) -> Vec<String> {
    let count = starts.len();
    let mut lines = Vec::new();
    for shown in (0..count).rev() {
        let mut line = vec![' '; cells];
        for start in &starts[..shown] {
            line[*start] = '│';
        }
        let start = starts[shown];
        let shared = starts[..shown].contains(&start);
        let text = format!(
            "{} {}",
            if shared { "├─" } else { "└─" },
            hint(&plan.partitions[shown])
        );
        line.truncate(start);
        line.extend(text.chars());
        // A name may reach past the end of the bar; a shorter one is filled up.
        line.resize(line.len().max(cells), ' ');
        lines.push(line.into_iter().collect());
    }
    lines
}

/// What a partition is called: its definition's file, else its label, else its UUID.
fn hint(partition: &PlannedPartition) -> String {
    let file = partition
        .definition()
        .and_then(|definition| definition.path.file_name());
    match file {
        Some(name) => name.to_string_lossy().into_owned(),
        None if partition.label.is_empty() => partition.uuid.to_string(),
        None => partition.label.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_cut_not_rounded() {
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1 << 30, "1G"),
            (680_505_344, "648.9M"),
            ((1 << 31) - 1, "1.9G"),
            (u64::MAX, "15.9E"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }

    #[test]
    fn the_widest_columns_give_way() {
        let mut widths = [11, 11, 36, 4, 12, 10, 8, 8];
        narrow(&mut widths, 100);
        assert_eq!(widths, [11, 11, 29, 4, 12, 10, 8, 8]);
        narrow(&mut widths, 10);
        assert!(widths.iter().all(|width| *width <= 8));
    }
}
