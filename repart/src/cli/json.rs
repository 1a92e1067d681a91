//! The plan as systemd-repart's JSON (spec 6.3).

use std::path::Path;

use crate::{Activity, Plan, PlannedPartition};

/// The device node of partition `number`: systemd's and the kernel's naming.
pub(super) fn node(device: &Path, number: u32) -> String {
    let base = device.display().to_string();
    let infix = if base.starts_with("/dev/disk/by-") {
        "-part"
    } else if base.ends_with(|c: char| c.is_ascii_digit()) {
        "p"
    } else {
        ""
    };
    format!("{base}{infix}{number}")
}

/// systemd's word for an activity.
pub(super) fn activity(partition: &PlannedPartition) -> &'static str {
    match partition.activity {
        Activity::Created => "create",
        Activity::Grown => "resize",
        Activity::Kept => "unchanged",
        Activity::Deleted => "delete",
    }
}

/// What stands in the label column.
pub(super) fn label(partition: &PlannedPartition) -> String {
    if !partition.label.is_empty() {
        return partition.label.clone();
    }
    let foreign = partition.definition().is_none();
    partition
        .partition_type
        .name()
        .filter(|_| foreign)
        .unwrap_or_else(|| "-".to_owned())
}

/// systemd-repart adds texts for people to the numbers when it is to say more.
fn is_debug() -> bool {
    std::env::var("SYSTEMD_LOG_LEVEL").is_ok_and(|level| matches!(level.as_str(), "debug" | "7"))
}

/// The locale's character set, by the variables' order of POSIX.
fn is_utf8() -> bool {
    let set = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    set.is_some_and(|value| {
        let value = value.to_ascii_lowercase();
        value.ends_with("utf-8") || value.ends_with("utf8")
    })
}

/// One array, ended by a newline.
pub(super) fn render(plan: &Plan, device: &Path, pretty: bool) -> String {
    let drop_ins = plan
        .partitions
        .iter()
        .any(|row| row.definition().is_some_and(|d| !d.drop_ins.is_empty()));
    let rows: Vec<String> = plan
        .partitions
        .iter()
        .map(|row| object(row, device, drop_ins, pretty))
        .collect();
    if rows.is_empty() {
        return "[]\n".to_owned();
    }
    if pretty {
        format!("[\n\t{}\n]\n", rows.join(",\n\t"))
    } else {
        format!("[{}]\n", rows.join(","))
    }
}

fn object(row: &PlannedPartition, device: &Path, drop_ins: bool, pretty: bool) -> String {
    let file = row.definition().map_or("null".to_owned(), |definition| {
        quote(&definition.path.display().to_string())
    });
    let mut fields = vec![
        ("type", quote(&row.partition_type.name_or_uuid())),
        ("label", quote(&label(row))),
        ("uuid", quote(&row.uuid.to_string())),
        ("partno", row.number.saturating_sub(1).to_string()),
        ("file", file),
        ("node", quote(&node(device, row.number))),
        ("offset", row.offset.to_string()),
        ("old_size", row.old_size.to_string()),
        ("raw_size", row.size.to_string()),
        ("old_padding", row.old_padding.to_string()),
        ("raw_padding", row.padding.to_string()),
        ("activity", quote(activity(row))),
    ];
    if is_debug() {
        let created = row.activity == Activity::Created;
        let arrow = if is_utf8() { "→" } else { "->" };
        let text = |old, new| quote(&super::pretty::change(created, old, new).replace('→', arrow));
        // Behind what they are made of, the later place first.
        fields.insert(11, ("padding", text(row.old_padding, row.padding)));
        fields.insert(9, ("size", text(row.old_size, row.size)));
    }
    if drop_ins {
        let list = row
            .definition()
            .map(|definition| definition.drop_ins.as_slice())
            .unwrap_or_default();
        let list: Vec<String> = list
            .iter()
            .map(|path| quote(&path.display().to_string()))
            .collect();
        fields.push((
            "drop-in_files",
            if list.is_empty() {
                "null".to_owned()
            } else {
                array(&list, pretty)
            },
        ));
    }
    let (separator, colon) = if pretty {
        (",\n\t\t", " : ")
    } else {
        (",", ":")
    };
    let fields: Vec<String> = fields
        .into_iter()
        .map(|(name, value)| format!("\"{name}\"{colon}{value}"))
        .collect();
    let body = fields.join(separator);
    if pretty {
        format!("{{\n\t\t{body}\n\t}}")
    } else {
        format!("{{{body}}}")
    }
}

fn array(items: &[String], pretty: bool) -> String {
    if pretty {
        format!("[\n\t\t\t{}\n\t\t]", items.join(",\n\t\t\t"))
    } else {
        format!("[{}]", items.join(","))
    }
}

fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
