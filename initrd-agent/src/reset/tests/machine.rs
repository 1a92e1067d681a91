//! A whole machine: a GPT disk, EFI variables that can be deleted or not, and boots that are cut at every event.
//!
//! Every prefix of the events of a reset and the first boot in it (table writes, overwritten keys, new contents,
//! deleted variables, in one order), every single lost unflushed write and torn last write, is what the next boots find.

use super::super::doom;
use super::super::identity;
use super::super::identity::{Part, RequestId};
use super::super::request::{Decision, Evidence, Judgement, Word, compose, decide};
use super::super::run::{Hands, clear, leaves_mark};
use super::super::variable::{LEGACY, REQUEST, Reading, encode};
use super::decision::{os, quiet};
use super::disk::{Event, MemoryDisk, commit, protective_mbr, table, write_table};
use repart::{
    Contents, ContentsError, Copy, Definitions, DirFiles, Disk, Gpt, Guid, LoadContext, Plan,
    PlannedPartition, Policy, Table, TableState, apply, observe, plan,
};
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;

const SIZE: u64 = 12 << 20;
const ROOT: &str = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709";
const HOME: &str = "933ac7e1-2eb4-4f13-b844-0e14e2aef915";
const SRV: &str = "3b8f8425-20e0-4f3b-907f-1a25a76f98e8";
/// Slot 4 is another system's home: the one a reset by slot order would take (golden 092).
const LAYOUT: [(&str, u128, u64, u64, &str); 4] = [
    (ROOT, 0x11, 1 << 20, 2 << 20, "root"),
    (HOME, 0x22, 3 << 20, 2 << 20, "home"),
    (SRV, 0x33, 5 << 20, 1 << 20, "srv"),
    (HOME, 0x44, 6 << 20, 1 << 20, "other-home"),
];
const MARKED: [usize; 2] = [0, 1];
const FOREIGN: [usize; 2] = [2, 3];

#[derive(Clone)]
struct Machine {
    disk: MemoryDisk,
    variables: BTreeMap<&'static str, Vec<u8>>,
    stuck: bool,
    boots: u8,
}

fn definitions() -> Definitions {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), format!("[Partition]\n{text}")).unwrap()
    };
    put(
        "10-root.conf",
        "Type=root-x86-64\nSizeMinBytes=2M\nSizeMaxBytes=2M\nFactoryReset=yes\n",
    );
    put(
        "20-home.conf",
        "Type=home\nSizeMinBytes=2M\nSizeMaxBytes=2M\nFactoryReset=yes\n",
    );
    put(
        "30-srv.conf",
        "Type=srv\nSizeMinBytes=1M\nSizeMaxBytes=1M\n",
    );
    Definitions::load(&DirFiles, &[dir.path().to_owned()], &LoadContext::default()).unwrap()
}

fn secret(partition: usize) -> Vec<u8> {
    format!("old key material of partition {partition}, do not leave it lying about").into_bytes()
}

fn places(partition: usize) -> [u64; 3] {
    let (_, _, offset, size, _) = LAYOUT[partition];
    [offset + 4096, offset + 40960, offset + size - 4096]
}

fn old(variables: &[(&'static str, String)], stuck: bool) -> Machine {
    let mut disk = MemoryDisk::new(SIZE);
    disk.no_discard = stuck;
    disk.store(0, &protective_mbr(SIZE));
    write_table(&mut disk, Copy::Primary, &table(SIZE, &LAYOUT)).unwrap();
    for partition in 0..LAYOUT.len() {
        for place in places(partition) {
            disk.store(place, &secret(partition));
        }
    }
    disk.events.clear();
    let variables = variables
        .iter()
        .map(|(name, text)| (*name, encode(text)))
        .collect();
    Machine {
        disk,
        variables,
        stuck,
        boots: 0,
    }
}

/// Fills a new partition with its own UUID and the boot that made it.
struct Fresh(u8);

impl Contents for Fresh {
    fn prepare(&mut self, _: &PlannedPartition) -> Result<(), ContentsError> {
        Ok(())
    }
    fn make(
        &mut self,
        disk: &mut dyn Disk,
        partition: &PlannedPartition,
    ) -> Result<(), ContentsError> {
        let mut data = partition.uuid.bytes().to_vec();
        data.resize(512, self.0);
        for at in [0, partition.size / 2, partition.size - 512] {
            disk.write_at(partition.offset + at, &data)?;
        }
        Ok(())
    }
    fn published(&mut self, _: &Plan) -> Result<(), ContentsError> {
        Ok(())
    }
}

/// The variables during [`clear`]; what is deleted becomes an event of the disk once the call is over.
struct Firmware<'a> {
    variables: &'a mut BTreeMap<&'static str, Vec<u8>>,
    stuck: bool,
    deleted_at: Vec<(usize, &'static str)>,
    events_at_commit: usize,
}

impl Hands<MemoryDisk> for Firmware<'_> {
    fn commit(
        &mut self,
        disk: &mut MemoryDisk,
        there: &Gpt,
        table: &Table,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        commit(disk, there, table)?;
        self.events_at_commit = disk.events.len();
        Ok(())
    }

    fn consume(&mut self, requests: &[Part]) -> Vec<Part> {
        let mut requests = requests.to_vec();
        requests.sort();
        if self.stuck {
            return requests;
        }
        for name in requests.iter().filter_map(Part::variable) {
            self.variables.remove(name);
            self.deleted_at.push((self.events_at_commit, name));
        }
        Vec::new()
    }
}

impl Machine {
    fn judge(&self, word: Word) -> Judgement {
        let reading = |name: &str| {
            self.variables
                .get(name)
                .map_or(Reading::Absent, |v| Reading::Value(v.clone()))
        };
        let evidence = Evidence {
            request: reading(REQUEST),
            legacy: reading(LEGACY),
            word,
            boot_id: Some([100 + self.boots; 16]),
            ..quiet()
        };
        let snapshot = observe(&self.disk).unwrap();
        decide(
            &evidence,
            doom::find(&snapshot).as_ref(),
            &identity::present(&snapshot),
        )
    }

    /// One boot to its end.
    fn boot(&mut self, word: Word) -> Decision {
        self.boots += 1;
        let judged = self.judge(word);
        let snapshot = observe(&self.disk).unwrap();
        let definitions = definitions();
        let random = Guid::from_bytes([200 + self.boots; 16]);
        let mut policy = Policy::new(random, random);
        if let Some(id) = judged.decision.resets() {
            policy.factory_reset = true;
            policy.seed = identity::seed_for(id, &identity::present(&snapshot));
            assert!(leaves_mark(
                &plan(&snapshot, &definitions, &policy).unwrap(),
                id
            ));
            let mut numbers = repart::marked_for_reset(&snapshot, &definitions, &policy).unwrap();
            numbers.extend(
                doom::find(&snapshot)
                    .into_iter()
                    .flat_map(|doomed| doomed.numbers),
            );
            let mut firmware = Firmware {
                variables: &mut self.variables,
                stuck: self.stuck,
                deleted_at: Vec::new(),
                events_at_commit: self.disk.events.len(),
            };
            let cleared = clear(
                &mut self.disk,
                &snapshot,
                &numbers,
                id,
                &judged.answered,
                &mut firmware,
            )
            .unwrap();
            for (at, name) in firmware.deleted_at.into_iter().rev() {
                self.disk.events.insert(at, Event::Deleted(name));
            }
            policy.seed = cleared.seed;
        } else if !self.stuck {
            for name in judged.answered.iter().filter_map(Part::variable) {
                self.variables.remove(name);
                self.disk.events.push(Event::Deleted(name));
            }
        }
        let snapshot = observe(&self.disk).unwrap();
        let plan = plan(&snapshot, &definitions, &policy).unwrap();
        apply(&plan, &mut self.disk, &mut Fresh(self.boots)).unwrap();
        judged.decision
    }

    fn table(&self) -> Table {
        match observe(&self.disk).unwrap().table {
            TableState::Gpt(gpt) => gpt.table,
            other => panic!("no table: {other:?}"),
        }
    }

    fn uuids(&self) -> BTreeSet<Guid> {
        self.table().used().map(|entry| entry.guid).collect()
    }

    fn assert_foreign_is_untouched(&self, context: &str) {
        let before = table(SIZE, &LAYOUT);
        for partition in FOREIGN {
            let number = u32::try_from(partition).unwrap() + 1;
            assert_eq!(self.table().raw(number), before.raw(number), "{context}");
            let (_, _, offset, size, _) = LAYOUT[partition];
            let mut expected = vec![0; usize::try_from(size).unwrap()];
            for place in places(partition) {
                let at = usize::try_from(place - offset).unwrap();
                expected[at..at + secret(partition).len()].copy_from_slice(&secret(partition));
            }
            assert!(
                self.disk.bytes(offset, expected.len()) == expected,
                "{context}: partition {number}"
            );
        }
    }

    fn is_untouched(&self) -> bool {
        let same = self.table().used().eq(table(SIZE, &LAYOUT).used());
        same && MARKED.iter().all(|partition| {
            places(*partition).iter().all(|place| {
                self.disk.bytes(*place, secret(*partition).len()) == secret(*partition)
            })
        })
    }

    /// New partitions in the old slots, nothing old readable, no record of a reset in progress.
    fn assert_reset(&self, context: &str) {
        assert!(
            doom::find(&observe(&self.disk).unwrap()).is_none(),
            "{context}"
        );
        for partition in MARKED {
            assert!(!self.disk.holds(&secret(partition)), "{context}");
            let entry = self
                .table()
                .entry(u32::try_from(partition).unwrap() + 1)
                .unwrap();
            assert_ne!(
                entry.guid,
                Guid::from_u128(LAYOUT[partition].1),
                "{context}"
            );
            assert_eq!(entry.attributes >> 63, 0, "{context}");
            assert_eq!(
                self.disk.bytes(entry.first_lba * 512, 16),
                entry.guid.bytes(),
                "{context}"
            );
        }
        assert_eq!(self.table().used().count(), LAYOUT.len(), "{context}");
    }
}

fn request() -> (&'static str, String) {
    (REQUEST, compose(&os(), [1; 16]).unwrap())
}

fn legacy() -> (&'static str, String) {
    (LEGACY, "1".to_owned())
}

#[test]
fn a_request_is_obeyed_once_whether_it_can_be_deleted_or_not() {
    for stuck in [false, true] {
        for variables in [vec![request()], vec![legacy()], vec![request(), legacy()]] {
            let context = format!("{variables:?} stuck {stuck}");
            let mut machine = old(&variables, stuck);
            assert!(matches!(machine.boot(Word::Absent), Decision::On { .. }));
            machine.assert_reset(&context);
            machine.assert_foreign_is_untouched(&context);
            assert_eq!(machine.variables.is_empty(), !stuck);
            let after = machine.uuids();
            machine.disk.events.clear();
            for _ in 0..3 {
                assert_eq!(machine.boot(Word::Absent), Decision::Unasked, "{context}");
            }
            assert_eq!(machine.uuids(), after);
            assert!(
                machine
                    .disk
                    .events
                    .iter()
                    .all(|e| !matches!(e, Event::Write(..))),
                "{context}"
            );
        }
    }
}

#[test]
fn a_new_request_is_obeyed_after_an_old_one() {
    // Deletable legacy variables have no identity, and still each one counts.
    let mut machine = old(&[legacy()], false);
    let mut seen = machine.uuids();
    for _ in 0..3 {
        machine.variables.insert(LEGACY, encode("1"));
        assert!(matches!(machine.boot(Word::Absent), Decision::On { .. }));
        assert_eq!(
            machine.uuids().intersection(&seen).count(),
            FOREIGN.len(),
            "no UUID comes back"
        );
        seen.extend(machine.uuids());
    }
    // A variable that stays does not hide a later request, nor does the reset for that one bring it back.
    let mut machine = old(&[legacy()], true);
    let mut seen = machine.uuids();
    machine.boot(Word::Absent);
    for boot in 40..43u8 {
        seen.extend(machine.uuids());
        machine
            .variables
            .insert(REQUEST, encode(&compose(&os(), [boot; 16]).unwrap()));
        assert!(matches!(machine.boot(Word::Absent), Decision::On { .. }));
        assert_eq!(machine.uuids().intersection(&seen).count(), FOREIGN.len());
        assert_eq!(machine.boot(Word::Absent), Decision::Unasked);
    }
}

#[test]
fn the_command_line_resets_every_boot_that_has_it_and_takes_a_stuck_variable_with_it() {
    let mut machine = old(&[request()], true);
    machine.boot(Word::On);
    machine.assert_reset("first");
    assert_eq!(machine.boot(Word::Absent), Decision::Unasked);
    let first = machine.uuids();
    machine.boot(Word::On);
    machine.assert_reset("second");
    assert_eq!(machine.uuids().intersection(&first).count(), FOREIGN.len());
    assert_eq!(machine.boot(Word::Absent), Decision::Unasked);
    machine.assert_foreign_is_untouched("neighbours");
}

/// What the machine may look like after a power cut in this boot.
fn cuts(before: &Machine, events: &[Event]) -> Vec<(String, Machine)> {
    let mut all = Vec::new();
    for cut in 0..=events.len() {
        let open = events[..cut]
            .iter()
            .rev()
            .take_while(|e| matches!(e, Event::Write(..)))
            .count();
        let mut variants = vec![None];
        variants.extend((1..=open).map(|back| Some((cut - back, 0))));
        if let Some(Event::Write(_, data)) = events[..cut].last()
            && data.len() > 512
        {
            variants.push(Some((cut - 1, data.len() / 1024 * 512)));
        }
        for variant in variants {
            let mut machine = before.clone();
            for (at, event) in events[..cut].iter().enumerate() {
                match (event, variant) {
                    (Event::Write(offset, data), Some((bad, kept))) if at == bad => {
                        machine.disk.store(*offset, &data[..kept])
                    }
                    (Event::Deleted(name), _) => drop(machine.variables.remove(name)),
                    _ => machine.disk.replay(event),
                }
            }
            machine.disk.events.clear();
            all.push((
                format!("cut {cut} of {}, bad write {variant:?}", events.len()),
                machine,
            ));
        }
    }
    all
}

/// Cuts the first boot everywhere; `again` is the command line of the boots after it.
fn replay(variables: &[(&'static str, String)], stuck: bool, word: &Word, again: &Word) {
    let before = old(variables, stuck);
    let mut whole = before.clone();
    whole.boot(word.clone());
    whole.assert_reset("uncut");
    let events = std::mem::take(&mut whole.disk.events);
    let (mut untouched, mut resumed) = (0, 0);
    for (context, mut machine) in cuts(&before, &events) {
        machine.boots = 1;
        machine.assert_foreign_is_untouched(&context);
        let was_untouched = machine.is_untouched();
        let decision = machine.boot(again.clone());
        resumed += usize::from(matches!(decision, Decision::Resume { .. }));
        machine.assert_foreign_is_untouched(&context);
        if variables.is_empty() && *again == Word::Absent && was_untouched {
            // Cut before the point of no return, and nobody asks any more.
            assert!(machine.is_untouched(), "{context}");
            untouched += 1;
            continue;
        }
        machine.assert_reset(&context);
        let after = machine.uuids();
        if *again == Word::Absent {
            assert_eq!(machine.boot(Word::Absent), Decision::Unasked, "{context}");
            assert_eq!(machine.uuids(), after, "{context}");
        }
    }
    assert!(resumed > 10, "{resumed} cuts were in the middle");
    assert_eq!(
        untouched > 0,
        variables.is_empty() && *again == Word::Absent
    );
}

#[test]
fn every_cut_converges_with_a_request() {
    replay(&[request()], false, &Word::Absent, &Word::Absent);
}

#[test]
fn every_cut_converges_with_a_request_that_stays() {
    replay(&[request()], true, &Word::Absent, &Word::Absent);
}

#[test]
fn every_cut_converges_with_the_legacy_variable() {
    replay(&[legacy()], false, &Word::Absent, &Word::Absent);
    replay(&[legacy()], true, &Word::Absent, &Word::Absent);
}

#[test]
fn every_cut_converges_when_the_next_boot_has_no_request_any_more() {
    replay(&[], false, &Word::On, &Word::Absent);
}

#[test]
fn every_cut_converges_when_a_person_asks_again_or_says_no() {
    replay(&[], false, &Word::On, &Word::On);
    replay(&[request(), legacy()], true, &Word::On, &Word::Absent);
}

#[test]
fn a_second_cut_in_the_repetition_converges_too() {
    let before = old(&[], false);
    let mut whole = before.clone();
    whole.boot(Word::On);
    let events = std::mem::take(&mut whole.disk.events);
    for (context, machine) in cuts(&before, &events).into_iter().step_by(5) {
        let mut second = machine.clone();
        second.boots = 1;
        if second.boot(Word::Absent).resets().is_none() {
            continue;
        }
        let events = std::mem::take(&mut second.disk.events);
        for (inner, mut again) in cuts(&machine, &events).into_iter().step_by(7) {
            again.boots = 2;
            again.boot(Word::Absent);
            again.assert_reset(&format!("{context}, then {inner}"));
            again.assert_foreign_is_untouched(&context);
        }
    }
}

#[test]
fn a_record_is_only_what_looks_exactly_like_one() {
    let machine = old(&[], false);
    let id = RequestId::of(&[Part::Boot([3; 16])]);
    let snapshot = observe(&machine.disk).unwrap();
    assert_eq!(doom::find(&snapshot), None);
    let table = machine.table();
    assert!(doom::doom(&table, &[], id).is_none() && doom::doom(&table, &[99], id).is_none());
    let doomed = doom::doom(&table, &[1, 2], id).unwrap();
    assert!(doom::doom(&doomed, &[1, 2], id).is_none(), "done is done");
    let with = |table: &Table| {
        let mut disk = machine.disk.clone();
        write_table(&mut disk, Copy::Primary, table).unwrap();
        doom::find(&observe(&disk).unwrap())
    };
    assert_eq!(with(&doomed).unwrap().numbers, [1, 2]);
    for (label, attributes) in [
        (format!("factory-reset:{id}"), 0),
        ("factory-reset:1".to_owned(), 1 << 63),
    ] {
        let mut similar = table.clone();
        let entry = repart::Entry {
            label,
            attributes,
            ..table.entry(1).unwrap()
        };
        assert!(similar.set(&entry));
        assert_eq!(with(&similar), None);
    }
}

#[test]
fn a_plan_whose_partitions_name_their_own_uuids_leaves_no_mark() {
    let dir = tempfile::tempdir().unwrap();
    let text = "[Partition]\nType=root-x86-64\nUUID=aaaaaaaa-0000-4000-8000-000000000001\nSizeMinBytes=2M\nFactoryReset=yes\n";
    std::fs::write(dir.path().join("root.conf"), text).unwrap();
    let definitions =
        Definitions::load(&DirFiles, &[dir.path().to_owned()], &LoadContext::default()).unwrap();
    let id = RequestId::of(&[Part::Boot([3; 16])]);
    let mut policy = Policy::new(identity::seed_for(id, &[]), Guid::from_u128(5));
    policy.factory_reset = true;
    let snapshot = observe(&old(&[], false).disk).unwrap();
    assert!(!leaves_mark(
        &plan(&snapshot, &definitions, &policy).unwrap(),
        id
    ));
}
