//! Kernel modules of the initrd: `usr/lib/modules/VERSION` with depmod's text indexes, reduced to what is packed.
//!
//! Invariant: a module is loaded after everything modules.dep and modules.softdep want before it, and asked for once.
//! Nobody else loads modules: there is no modprobe in the initrd that the kernel could call.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use sys::kmod::Outcome;

use super::alias::AliasIndex;
use super::error::DevicesError;

/// What became of a request for a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// It is in the kernel now.
    Loaded,
    /// It was in the kernel before, or is a part of it.
    Present,
    /// Neither the initrd nor the kernel has it. Whether that matters only the caller knows.
    Missing,
    /// It found no device or CPU feature of its own, and went away again.
    NoDevice,
    /// The command line forbids it (`modprobe.blacklist=`).
    Forbidden,
}

/// A module that is there and could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Its file.
    #[error("cannot open the module {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel's answer.
    #[error("the kernel refuses the module {}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why; `EOPNOTSUPP` for a compressed file: this kernel cannot decompress modules.
        source: io::Error,
    },
    /// One it depends on could not be loaded.
    #[error("the module {module} needs {needed}, which is {outcome}")]
    Dependency {
        /// The module wanted.
        module: String,
        /// The one it needs.
        needed: String,
        /// `missing` or `forbidden`.
        outcome: &'static str,
    },
}

/// The modules of one kernel.
#[derive(Debug, Default)]
pub struct Modules {
    dir: PathBuf,
    /// Normalised name to the line of modules.dep.
    files: HashMap<String, Line>,
    aliases: AliasIndex,
    softdeps: HashMap<String, Softdep>,
    /// Read when first asked for: a healthy boot asks for nothing that is built in.
    builtin: OnceCell<Builtin>,
    parameters: HashMap<String, String>,
    forbidden: HashSet<String>,
    /// Loaded, or on the way to it.
    done: HashSet<String>,
}

#[derive(Clone, Debug)]
struct Line {
    path: String,
    /// Paths of all it needs, nearest first.
    needs: Vec<String>,
}

/// What the kernel has without loading anything.
#[derive(Debug, Default)]
struct Builtin {
    names: HashSet<String>,
    info: Vec<u8>,
}

#[derive(Clone, Debug, Default)]
struct Softdep {
    pre: Vec<String>,
    post: Vec<String>,
}

impl Modules {
    /// Reads the indexes of the kernel `release` below `root`. An initrd without any modules is fine: a kernel may have
    /// all it needs built in. One with the modules of another kernel is not.
    pub fn open(root: &Path, release: &str) -> Result<Self, DevicesError> {
        let all = root.join("usr/lib/modules");
        let dir = all.join(release);
        if !dir.is_dir() {
            let found = versions(&all)?;
            if found.is_empty() {
                return Ok(Self::default());
            }
            return Err(DevicesError::OtherKernel {
                release: release.to_owned(),
                found,
            });
        }
        let mut modules = Self {
            dir,
            ..Self::default()
        };
        modules.add_dep(&modules.index("modules.dep")?);
        modules.aliases = AliasIndex::new(modules.index("modules.alias")?);
        modules.add_softdep(&modules.index("modules.softdep")?);
        Ok(modules)
    }

    /// Takes `MODULE.PARAMETER=VALUE` and `modprobe.blacklist=` from a command line the caller trusts.
    pub fn set_command_line(&mut self, line: &str) {
        for word in line.split_ascii_whitespace() {
            if let Some(names) = word.strip_prefix("modprobe.blacklist=") {
                self.forbidden.extend(names.split(',').map(normal));
            } else if let Some((module, parameter)) = word.split_once('.')
                && !module.contains('=')
            {
                let list = self.parameters.entry(normal(module)).or_default();
                if !list.is_empty() {
                    list.push(' ');
                }
                list.push_str(parameter);
            }
        }
    }

    /// From now on these soft dependencies are left out wherever they are named, exactly as modules.softdep spells them:
    /// btrfs lists every checksum it could ever be made with, and a module costs a boot tens of milliseconds.
    pub fn leave_out(&mut self, soft: &[&str]) {
        for lists in self.softdeps.values_mut() {
            for list in [&mut lists.pre, &mut lists.post] {
                list.retain(|name| !soft.contains(&name.as_str()));
            }
        }
    }

    /// Loads every module that claims a device with this modalias. One that fails does not keep the others from it.
    pub fn load_alias(&mut self, modalias: &str) -> Vec<Result<Load, LoadError>> {
        let names: Vec<String> = self
            .aliases
            .lookup(modalias)
            .into_iter()
            .map(normal)
            .collect();
        names.iter().map(|name| self.load_module(name)).collect()
    }

    /// Loads a module by its name or by an exact alias such as `fs-erofs`, with what it needs.
    pub fn load(&mut self, name: &str) -> Result<Load, LoadError> {
        match self.resolve(name) {
            Resolved::Modules(names) => {
                let mut outcome = Load::Missing;
                for name in names {
                    outcome = self.load_module(&name)?;
                }
                Ok(outcome)
            }
            Resolved::Builtin => Ok(Load::Present),
            Resolved::Missing => Ok(Load::Missing),
        }
    }

    /// The files that loading `name` would put into the kernel, in order.
    #[must_use]
    pub fn order(&self, name: &str) -> Vec<PathBuf> {
        let Resolved::Modules(names) = self.resolve(name) else {
            return Vec::new();
        };
        let mut order = Vec::new();
        let mut seen = HashSet::new();
        for name in names {
            self.visit(&name, true, &mut seen, &mut order);
        }
        order
            .into_iter()
            .filter_map(|step| step.path)
            .map(|path| self.dir.join(path))
            .collect()
    }

    /// Whether a device with this modalias has a module here.
    #[must_use]
    pub fn knows(&self, modalias: &str) -> bool {
        !self.aliases.lookup(modalias).is_empty()
    }

    /// What the command line says about the module of this normalised name.
    #[must_use]
    pub fn parameters(&self, name: &str) -> &str {
        self.parameters
            .get(name)
            .map(String::as_str)
            .unwrap_or_default()
    }

    fn index(&self, name: &str) -> Result<String, DevicesError> {
        let path = self.dir.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            Err(source) => Err(DevicesError::Read { path, source }),
        }
    }

    fn add_dep(&mut self, text: &str) {
        for line in text.lines() {
            if let Some((path, needs)) = line.split_once(':') {
                let needs = needs.split_ascii_whitespace().map(str::to_owned).collect();
                self.files.insert(
                    name_of(path),
                    Line {
                        path: path.to_owned(),
                        needs,
                    },
                );
            }
        }
    }

    /// Lines `softdep NAME pre: A B post: C`.
    fn add_softdep(&mut self, text: &str) {
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some("softdep"), Some(name)) = (words.next(), words.next()) else {
                continue;
            };
            let entry = self.softdeps.entry(normal(name)).or_default();
            let mut list = None;
            for word in words {
                match (word, &mut list) {
                    ("pre:", _) => list = Some(&mut entry.pre),
                    ("post:", _) => list = Some(&mut entry.post),
                    (other, Some(list)) => list.push(other.to_owned()),
                    (_, None) => {}
                }
            }
        }
    }

    fn resolve(&self, name: &str) -> Resolved {
        let plain = normal(name);
        if self.files.contains_key(&plain) {
            return Resolved::Modules(vec![plain]);
        }
        let by_alias: Vec<String> = self.aliases.lookup(name).into_iter().map(normal).collect();
        if !by_alias.is_empty() {
            return Resolved::Modules(by_alias);
        }
        if self.is_builtin(&plain) || self.is_builtin_alias(name) {
            Resolved::Builtin
        } else {
            Resolved::Missing
        }
    }

    fn builtin(&self) -> &Builtin {
        self.builtin.get_or_init(|| {
            // Without these two files nothing is known to be built in.
            let modules = fs::read_to_string(self.dir.join("modules.builtin")).unwrap_or_default();
            let info = fs::read(self.dir.join("modules.builtin.modinfo")).unwrap_or_default();
            Builtin {
                names: modules.lines().map(name_of).collect(),
                info,
            }
        })
    }

    fn is_builtin(&self, name: &str) -> bool {
        self.builtin().names.contains(name)
    }

    /// modules.builtin.modinfo: `MODULE.alias=PATTERN` and other keys, each ended by NUL.
    fn is_builtin_alias(&self, alias: &str) -> bool {
        self.builtin().info.split(|b| *b == 0).any(|record| {
            std::str::from_utf8(record)
                .ok()
                .and_then(|text| text.split_once(".alias="))
                .is_some_and(|(_, pattern)| {
                    super::alias::matches(pattern.as_bytes(), alias.as_bytes())
                })
        })
    }

    /// Loads one module of this name with everything before and after it.
    fn load_module(&mut self, name: &str) -> Result<Load, LoadError> {
        if self.done.contains(name) {
            return Ok(Load::Present);
        }
        if self.forbidden.contains(name) {
            return Ok(Load::Forbidden);
        }
        if !self.files.contains_key(name) {
            return Ok(if self.is_builtin(name) {
                Load::Present
            } else {
                Load::Missing
            });
        }
        let mut outcome = Load::Missing;
        for step in self.plan(name) {
            let result = match &step.path {
                _ if self.forbidden.contains(&step.name) => Err(step.unmet(name, "forbidden")),
                None => Err(step.unmet(name, "missing")),
                Some(path) => self.insert(&step.name, path),
            };
            if step.name == name {
                outcome = result?;
            } else if step.hard {
                result?;
            }
        }
        Ok(outcome)
    }

    /// What to load for `name`, in order, without what is loaded.
    fn plan(&self, name: &str) -> Vec<Planned> {
        let mut order = Vec::new();
        self.visit(name, true, &mut HashSet::new(), &mut order);
        order
    }

    fn visit(&self, name: &str, hard: bool, seen: &mut HashSet<String>, order: &mut Vec<Planned>) {
        if self.done.contains(name) || self.is_builtin(name) || !seen.insert(name.to_owned()) {
            return;
        }
        let line = self.files.get(name);
        let soft = self.softdeps.get(name);
        for pre in soft.iter().flat_map(|soft| &soft.pre) {
            self.visit_soft(pre, seen, order);
        }
        // depmod lists the nearest first, so the last one needs nothing.
        for need in line.iter().flat_map(|line| line.needs.iter().rev()) {
            self.visit(&name_of(need), hard, seen, order);
        }
        order.push(Planned {
            name: name.to_owned(),
            path: line.map(|line| line.path.clone()),
            hard,
        });
        for post in soft.iter().flat_map(|soft| &soft.post) {
            self.visit_soft(post, seen, order);
        }
    }

    /// Soft dependencies may be aliases, and may be missing.
    fn visit_soft(&self, name: &str, seen: &mut HashSet<String>, order: &mut Vec<Planned>) {
        if let Resolved::Modules(names) = self.resolve(name) {
            for name in names.iter().filter(|name| self.files.contains_key(*name)) {
                self.visit(name, false, seen, order);
            }
        }
    }

    fn insert(&mut self, name: &str, path: &str) -> Result<Load, LoadError> {
        let path = self.dir.join(path);
        let file = File::open(&path).map_err(|source| LoadError::Open {
            path: path.clone(),
            source,
        })?;
        let compressed = path.extension().is_some_and(|extension| extension != "ko");
        // No word of a command line holds a NUL.
        let parameters = CString::new(self.parameters(name)).unwrap_or_default();
        let outcome = match sys::kmod::load(file.as_fd(), &parameters, compressed) {
            Ok(Outcome::Loaded) => Load::Loaded,
            Ok(Outcome::Present) => Load::Present,
            Ok(Outcome::NoDevice) => return Ok(Load::NoDevice),
            Err(source) => return Err(LoadError::Refused { path, source }),
        };
        self.done.insert(name.to_owned());
        Ok(outcome)
    }
}

/// One file to load.
#[derive(Debug)]
struct Planned {
    name: String,
    /// `None`: modules.dep names it as a dependency and has no line for it.
    path: Option<String>,
    /// Whether the module wanted is of no use without it.
    hard: bool,
}

impl Planned {
    fn unmet(&self, module: &str, outcome: &'static str) -> LoadError {
        LoadError::Dependency {
            module: module.to_owned(),
            needed: self.name.clone(),
            outcome,
        }
    }
}

enum Resolved {
    Modules(Vec<String>),
    Builtin,
    Missing,
}

/// The running kernel's version, by which its modules are filed.
#[must_use]
pub fn running_release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

/// `-` and `_` are the same to the kernel.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// A module's name, of the path of its file.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    normal(file.split_once(".ko").map_or(file, |(name, _)| name))
}

fn versions(all: &Path) -> Result<Vec<String>, DevicesError> {
    let failed = |source| DevicesError::Read {
        path: all.to_owned(),
        source,
    };
    let entries = match fs::read_dir(all) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        found.push(
            entry
                .map_err(failed)?
                .file_name()
                .to_string_lossy()
                .into_owned(),
        );
    }
    found.sort();
    Ok(found)
}
