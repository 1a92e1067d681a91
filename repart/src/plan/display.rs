//! The plan as text: dry run, log and snapshot test at once.

use std::fmt;

use super::{Activity, Plan, PlannedPartition};
use crate::size::human;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = match (self.write, self.from_scratch) {
            (false, _) => "unchanged",
            (true, false) => "extended",
            (true, true) => "made anew",
        };
        writeln!(
            f,
            "disk of {} bytes, {}-byte sectors: table {action}",
            self.disk_len, self.sector_size
        )?;
        let mut rows: Vec<&PlannedPartition> = self.partitions.iter().collect();
        rows.extend(&self.deleted);
        rows.sort_by_key(|partition| (partition.offset, partition.activity != Activity::Deleted));
        for row in rows {
            write!(
                f,
                "  {:>3}  {:<8} {:<24} {:<24} at {:>14}  {:>14} ({})",
                row.number,
                row.activity.name(),
                row.partition_type.name_or_uuid(),
                row.label,
                row.offset,
                row.size,
                human(row.size),
            )?;
            if row.activity == Activity::Grown || row.activity == Activity::Deleted {
                write!(f, ", was {} ({})", row.old_size, human(row.old_size))?;
            }
            if row.padding > 0 {
                write!(f, ", then {} free", human(row.padding))?;
            }
            if row.deferred {
                write!(f, ", deferred")?;
            }
            writeln!(f)?;
        }
        for dropped in &self.dropped {
            writeln!(
                f,
                "  not made: {} (needs {})",
                dropped.definition.path.display(),
                human(dropped.need)
            )?;
        }
        for note in &self.notes {
            writeln!(f, "  note: {note}")?;
        }
        Ok(())
    }
}
