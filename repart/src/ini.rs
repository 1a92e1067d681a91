//! The line syntax of systemd's configuration files (spec 1.1): sections, comments, continuation.

/// One `Key=value` inside a section the caller asked for, or something odd.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// Key and value, blanks around both cut.
    Assignment {
        line: usize,
        key: String,
        value: String,
    },
    /// A line that is neither, or a section nobody knows.
    Odd { line: usize, what: String },
}

/// Items of every section called `section`, in order.
pub(crate) fn parse(text: &str, section: &str) -> Vec<Item> {
    let mut items = Vec::new();
    let mut inside = false;
    for (line, content) in logical_lines(text) {
        let content = content.trim();
        if content.is_empty() {
            continue;
        }
        if let Some(rest) = content.strip_prefix('[') {
            let name = rest.strip_suffix(']').unwrap_or(rest);
            inside = name == section;
            if !inside && !name.starts_with("X-") {
                items.push(Item::Odd {
                    line,
                    what: format!("unknown section [{name}], skipped"),
                });
            }
        } else if inside {
            items.push(match content.split_once('=') {
                Some((key, value)) => Item::Assignment {
                    line,
                    key: key.trim_end().to_owned(),
                    value: value.trim_start().to_owned(),
                },
                None => Item::Odd {
                    line,
                    what: "line without '=', skipped".to_owned(),
                },
            });
        } else if !content.contains('=') {
            items.push(Item::Odd {
                line,
                what: "line outside of any section, skipped".to_owned(),
            });
        }
    }
    items
}

/// Lines with comments removed and continuations joined; the number is that of the first physical line.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (at, raw) in text.lines().enumerate() {
        let raw = raw.strip_suffix('\r').unwrap_or(raw);
        if raw.trim_start().starts_with(['#', ';']) {
            continue;
        }
        let continues = raw.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1;
        let body = if continues {
            &raw[..raw.len() - 1]
        } else {
            raw
        };
        let (line, mut joined) = open.take().unwrap_or((at + 1, String::new()));
        joined.push_str(body);
        if continues {
            joined.push(' ');
            open = Some((line, joined));
        } else {
            lines.push((line, joined));
        }
    }
    lines.extend(open);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assignment(line: usize, key: &str, value: &str) -> Item {
        Item::Assignment {
            line,
            key: key.to_owned(),
            value: value.to_owned(),
        }
    }

    #[test]
    fn syntax() {
        let text = "# c\n;c\n[Partition]\n Type =  root \nLabel=a\\\n b\nNo equals\n[Other]\nType=x\n[Partition]\nA=\\\\\nB=";
        assert_eq!(
            parse(text, "Partition"),
            [
                assignment(4, "Type", "root"),
                assignment(5, "Label", "a  b"),
                Item::Odd {
                    line: 7,
                    what: "line without '=', skipped".to_owned()
                },
                Item::Odd {
                    line: 8,
                    what: "unknown section [Other], skipped".to_owned()
                },
                assignment(11, "A", "\\\\"),
                assignment(12, "B", ""),
            ]
        );
    }
}
