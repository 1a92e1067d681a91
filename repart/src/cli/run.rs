//! One run: definitions, disk, plan, apply, print.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use crate::{
    Architecture, BlockDevice, Definitions, Deviations, DirFiles, Disk, EmptyMode, LoadContext,
    NoContents, Plan, PlanError, Policy, TableState, apply, marked_for_reset, minimal_size,
    observe, plan, plan_deletion,
};

use super::args::{Json, Options, Seed, Size};
use super::contents::DirectContents;
use super::encryption::Encryption;
use super::host::Sources;
use super::temporary::Temporary;
use super::{backing, host, json, kernel, pretty};
use crate::populate;
use crate::types::Designator;
use rustix::termios;

/// No disk was named, and none was found.
const NO_DISK: u8 = 76;
/// The table is missing or unsuitable for the mode.
const UNSUITABLE: u8 = 77;

/// Why the program ends, and with which code.
pub(super) struct Failure {
    pub(super) code: u8,
    pub(super) error: Box<dyn Error>,
}

impl Failure {
    pub(super) fn new(error: impl Error + 'static) -> Self {
        Self {
            code: 1,
            error: Box::new(error),
        }
    }

    pub(super) fn usage(error: impl Error + 'static) -> Self {
        Self::new(error)
    }

    fn plan(error: PlanError) -> Self {
        let code = if error.is_unsuitable_table() {
            UNSUITABLE
        } else {
            1
        };
        Self {
            code,
            error: Box::new(error),
        }
    }

    fn text(code: u8, text: String) -> Self {
        Self {
            code,
            error: text.into(),
        }
    }

    /// An I/O error that does not name its file itself.
    fn at(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::text(1, format!("cannot {what} {}: {error}", path.display()))
    }
}

/// Below which everything is looked up, and whether the user said so.
struct Roots {
    root: PathBuf,
    explicit: bool,
}

impl Roots {
    fn of(options: &Options) -> Result<Self, Failure> {
        match &options.root {
            Some(root) => Ok(Self {
                root: super::contents::absolute(root).map_err(Failure::at("resolve", root))?,
                explicit: true,
            }),
            None => Ok(Self {
                root: host::implicit_root(),
                explicit: false,
            }),
        }
    }

    /// As the functions of [`host`] take it: `None` is `/`.
    fn path(&self) -> Option<&Path> {
        (self.root != Path::new("/")).then_some(&self.root)
    }
}

pub(super) fn run(
    options: &Options,
    encryption: Option<&mut dyn Encryption>,
) -> Result<u8, Failure> {
    if options.list_devices {
        let list = backing::list().map_err(Failure::new)?;
        let lines: Vec<String> = list
            .iter()
            .map(|node| format!("{}\n", node.display()))
            .collect();
        super::print(&lines.concat())?;
        return Ok(0);
    }
    let roots = Roots::of(options)?;
    let mut definitions = load_definitions(options, roots.path())?;
    let device = device(options, &roots)?;
    let sources = Sources {
        root: &roots.root,
        explicit: roots.explicit,
        image: options.image.as_deref(),
    };
    let blocks = host::open_sources(&mut definitions, &sources).map_err(Failure::new)?;
    let policy = policy(options, roots.path())?;
    if device == Path::new("-") {
        return say_minimal_size(&definitions, &policy);
    }
    let mut disk = open(options, &device, &definitions, &policy)?;
    let policy = Policy {
        fs_sector_size: fs_sector_size(options, &disk),
        ..policy
    };
    let mut contents = contents(options, &roots, &definitions, &policy, &disk)?;
    contents.blocks = blocks;
    contents.encryption = encryption;
    let (outcome, changed) = work(options, &definitions, &policy, &mut disk, &mut contents)?;
    let Some(plan) = outcome else {
        return Ok(changed);
    };
    show(options, &plan, &device)?;
    Ok(0)
}

/// `-` instead of a device: how large an image has to be.
fn say_minimal_size(definitions: &Definitions, policy: &Policy) -> Result<u8, Failure> {
    let place = Temporary::new().map_err(Failure::new)?;
    let (file, path) = place.file("empty", 1 << 20).map_err(Failure::new)?;
    let disk = BlockDevice::from_file(file, &path, Some(512)).map_err(Failure::new)?;
    let snapshot = observe(&disk).map_err(Failure::new)?;
    let policy = Policy {
        empty: EmptyMode::Create,
        ..policy.clone()
    };
    let bytes = minimal_size(&snapshot, definitions, &policy).map_err(Failure::plan)?;
    // The words are systemd-repart's, which scripts look for.
    super::say(&format!(
        "Automatically determined minimal disk image size as {}.",
        pretty::human(bytes.next_multiple_of(4096))
    ));
    Ok(0)
}

/// The disk that was named, the image, or the disk behind the root.
fn device(options: &Options, roots: &Roots) -> Result<PathBuf, Failure> {
    if let Some(device) = options.device.as_ref().or(options.image.as_ref()) {
        return Ok(device.clone());
    }
    let found = backing::root_disk(&roots.root, roots.explicit).map_err(|error| {
        Failure::text(
            1,
            format!(
                "cannot find the disk behind {}: {error}",
                roots.root.display()
            ),
        )
    })?;
    found.ok_or_else(|| {
        Failure::text(
            NO_DISK,
            format!("no disk named, and none is behind {}", roots.root.display()),
        )
    })
}

fn contents<'a>(
    options: &Options,
    roots: &Roots,
    definitions: &Definitions,
    policy: &Policy,
    disk: &BlockDevice,
) -> Result<DirectContents<'a>, Failure> {
    let sources = match &options.copy_source {
        Some(path) => super::contents::absolute(path).map_err(Failure::at("resolve", path))?,
        None => roots.root.clone(),
    };
    let others = definitions
        .list
        .iter()
        .filter(|definition| definition.partition_type.designator() != Designator::Root);
    let device = if disk.is_block() {
        Some(
            disk.file()
                .try_clone()
                .map_err(Failure::at("open", disk.path()))?,
        )
    } else {
        None
    };
    Ok(DirectContents {
        sources,
        blocks: BTreeMap::new(),
        programs: host::programs(),
        sector_size: policy.fs_sector_size,
        is_image: !disk.is_block(),
        discard: options.discard,
        elsewhere: others
            .flat_map(|definition| populate::mount_points(&definition.partition_type))
            .map(PathBuf::from)
            .collect(),
        epoch: host::epoch(),
        keys: options.keys.clone(),
        own_rules: options.own_rules,
        encryption: None,
        device,
    })
}

fn load_definitions(options: &Options, root: Option<&Path>) -> Result<Definitions, Failure> {
    let dirs: Vec<PathBuf> = if options.definitions.is_empty() {
        host::definition_dirs(root)
    } else {
        let mut dirs: Vec<PathBuf> = Vec::new();
        for dir in &options.definitions {
            let dir = super::contents::absolute(dir).map_err(Failure::at("resolve", dir))?;
            if !dirs.contains(&dir) {
                dirs.push(dir);
            }
        }
        dirs
    };
    let architecture = options.architecture.unwrap_or_else(Architecture::native);
    let specifiers = host::specifiers(root, architecture).map_err(Failure::new)?;
    let context = LoadContext {
        architecture: Architecture::native(),
        remap: options.architecture,
        specifiers,
        filter: options.filter.clone(),
    };
    let definitions = Definitions::load(&DirFiles, &dirs, &context).map_err(Failure::new)?;
    for warning in &definitions.warnings {
        super::say(&format!("repart: {warning}"));
    }
    for definition in &definitions.list {
        for key in &definition.content.without_effect {
            super::say(&format!(
                "repart: {}: {key}= has no effect: it is for building images",
                definition.path.display()
            ));
        }
    }
    Ok(definitions)
}

fn policy(options: &Options, root: Option<&Path>) -> Result<Policy, Failure> {
    let random = || host::random().map_err(Failure::new);
    let seed = match options.seed {
        Seed::Fixed(seed) => seed,
        Seed::Random => random()?,
        Seed::Default => match host::machine_id(root).map_err(Failure::new)? {
            Some(id) => id,
            None => random()?,
        },
    };
    let deviations = if options.own_rules {
        Deviations::ALL
    } else {
        Deviations::NONE
    };
    // systemd-repart ignores the request in a dry run, so that one cannot show the outcome.
    let factory_reset = options.factory_reset && (!options.dry_run || deviations.honest_dry_run);
    Ok(Policy {
        empty: options.empty,
        factory_reset,
        dry_run: options.dry_run,
        grain: options.grain,
        defer: options.defer.clone(),
        discard: options.discard,
        deviations,
        ..Policy::new(seed, random()?)
    })
}

/// Opens or creates the disk and makes it as large as `--size=` says.
fn open(
    options: &Options,
    device: &Path,
    definitions: &Definitions,
    policy: &Policy,
) -> Result<BlockDevice, Failure> {
    let fresh = matches!(
        options.empty,
        EmptyMode::Require | EmptyMode::Force | EmptyMode::Create
    );
    let create = options.empty == EmptyMode::Create;
    let writable = !options.dry_run || options.size != Size::Keep && !options.own_rules;
    let file = File::options()
        .read(true)
        .write(writable)
        .create_new(create)
        .open(device)
        .map_err(Failure::at(if create { "create" } else { "open" }, device))?;
    let is_file = file
        .metadata()
        .map_err(Failure::at("look at", device))?
        .is_file();
    if !create || !is_file {
        kernel::lock(&file, writable).map_err(Failure::at("lock", device))?;
    }
    let sector_size = options.sector_size.or((fresh && is_file).then_some(512));
    let mut disk =
        BlockDevice::from_file(file, device, sector_size).map_err(Failure::at("open", device))?;
    let wanted = match options.size {
        Size::Keep => return Ok(disk),
        Size::Bytes(bytes) => bytes,
        Size::Auto => {
            let snapshot = observe(&disk).map_err(Failure::new)?;
            minimal_size(&snapshot, definitions, policy).map_err(Failure::plan)?
        }
    };
    if wanted > disk.len() && writable {
        disk.grow(wanted).map_err(Failure::at("enlarge", device))?;
        if !create {
            move_backup(&mut disk, policy)?;
        }
    }
    Ok(disk)
}

/// systemd-repart moves the backup table as soon as the file has grown, in a dry run too.
fn move_backup(disk: &mut BlockDevice, policy: &Policy) -> Result<(), Failure> {
    let snapshot = observe(disk).map_err(Failure::new)?;
    if !matches!(snapshot.table, TableState::Gpt(_))
        || !matches!(policy.empty, EmptyMode::Refuse | EmptyMode::Allow)
    {
        return Ok(());
    }
    let deviations = Deviations {
        repair_table: true,
        ..policy.deviations
    };
    let repair = Policy {
        deviations,
        dry_run: false,
        factory_reset: false,
        ..policy.clone()
    };
    let plan = plan(&snapshot, &Definitions::default(), &repair).map_err(Failure::plan)?;
    apply(&plan, disk, &mut NoContents).map_err(Failure::new)?;
    Ok(())
}

fn fs_sector_size(options: &Options, disk: &BlockDevice) -> u64 {
    match options.sector_size {
        Some(size) => size.into(),
        None if disk.is_block() => disk.sector_size().into(),
        None => 4096,
    }
}

/// Plans and carries out. Without a plan the number is the exit code.
fn work(
    options: &Options,
    definitions: &Definitions,
    policy: &Policy,
    disk: &mut BlockDevice,
    contents: &mut DirectContents<'_>,
) -> Result<(Option<Plan>, u8), Failure> {
    let mut snapshot = observe(disk).map_err(Failure::new)?;
    if let (Size::Bytes(bytes), true) = (options.size, options.own_rules && options.dry_run) {
        snapshot.len = snapshot.len.max(bytes);
    }
    if options.can_factory_reset {
        let marked = marked_for_reset(&snapshot, definitions, policy).map_err(Failure::plan)?;
        return Ok((None, u8::from(marked.is_empty())));
    }
    let plan = match plan(&snapshot, definitions, policy) {
        Ok(plan) => plan,
        Err(error) => {
            // systemd-repart has deleted by then; --rules=own leaves the disk alone.
            if policy.factory_reset && !options.own_rules && !options.dry_run {
                let deletion =
                    plan_deletion(&snapshot, definitions, policy).map_err(Failure::plan)?;
                apply(&deletion, disk, &mut NoContents).map_err(Failure::new)?;
            }
            return Err(Failure::plan(error));
        }
    };
    for note in &plan.notes {
        super::say(&format!("repart: {note}"));
    }
    if !options.dry_run {
        apply(&plan, disk, contents).map_err(Failure::new)?;
    }
    Ok((Some(plan), 0))
}

fn show(options: &Options, plan: &Plan, device: &Path) -> Result<(), Failure> {
    let device = super::contents::absolute(device).map_err(Failure::at("resolve", device))?;
    let stdout = std::io::stdout();
    if options
        .pretty
        .unwrap_or_else(|| stdout.is_terminal() && options.json == Json::Off)
    {
        let width = termios::tcgetwinsize(&stdout)
            .ok()
            .filter(|_| stdout.is_terminal())
            .map(|size| usize::from(size.ws_col))
            .filter(|columns| *columns > 0);
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let style = pretty::Style {
            legend: options.legend,
            // https://no-color.org
            colour: stdout.is_terminal()
                && variable("NO_COLOR").is_none()
                && variable("TERM").is_none_or(|terminal| terminal != "dumb"),
            width,
            bar_width: std::env::var("COLUMNS")
                .ok()
                .and_then(|columns| columns.parse().ok()),
        };
        super::print(&pretty::render(plan, style))?;
    }
    if options.dry_run && plan.changes_disk() && options.json == Json::Off {
        super::say("repart: a dry run; --dry-run=no makes it so");
    }
    match options.json {
        Json::Off => Ok(()),
        Json::Short => super::print(&json::render(plan, &device, false)),
        Json::Pretty => super::print(&json::render(plan, &device, true)),
    }
}
