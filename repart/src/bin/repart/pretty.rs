//! The plan as a table for people.

use std::path::Path;

use repart::Plan;

use crate::json::{activity, label, node};

const HEADER: [&str; 8] = [
    "TYPE", "LABEL", "UUID", "NODE", "OFFSET", "SIZE", "PADDING", "ACTIVITY",
];

/// Aligned columns, one row a partition.
pub(crate) fn render(plan: &Plan, device: &Path, legend: bool) -> String {
    let mut rows: Vec<[String; 8]> = Vec::new();
    if legend {
        rows.push(HEADER.map(str::to_owned));
    }
    rows.extend(plan.deleted.iter().chain(&plan.partitions).map(|row| {
        [
            row.partition_type.name_or_uuid(),
            label(row),
            row.uuid.to_string(),
            node(device, row.number),
            row.offset.to_string(),
            change(row.old_size, row.size),
            change(row.old_padding, row.padding),
            activity(row).to_owned(),
        ]
    }));
    let mut widths = [0; 8];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in &rows {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        out.push_str(cells.join(" ").trim_end());
        out.push('\n');
    }
    out
}

fn change(old: u64, new: u64) -> String {
    if old == new {
        new.to_string()
    } else {
        format!("{old} → {new}")
    }
}
