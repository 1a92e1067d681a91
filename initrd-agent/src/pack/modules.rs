//! depmod's text indexes: which modules exist, what each needs, and the reduced copies that go into the initrd.
//! Invariant: the closure of a set holds everything modules.dep and modules.softdep name, so that no load in the
//! initrd fails for want of a file that the tree had. Formats: depmod(8), modules.dep(5), modprobe.d(5).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::compressed::plain_name;
use super::error::PackError;

/// A loadable module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its path below `usr/lib/modules/VERSION`, as stored in the tree.
    pub path: String,
    /// Normalised names of all modules that must be loaded before it, nearest first, as depmod lists them.
    pub needs: Vec<String>,
}

/// What a name stands for.
#[derive(Debug, PartialEq, Eq)]
pub enum Resolved {
    /// Loadable modules, by normalised name; several when it is an alias.
    Modules(Vec<String>),
    /// Part of the kernel.
    Builtin,
    /// Nothing.
    Missing,
}

/// The indexes of one kernel.
#[derive(Debug, Default)]
pub struct Index {
    modules: BTreeMap<String, Module>,
    builtin: BTreeSet<String>,
    builtin_text: String,
    /// Exact aliases of what is built in, as modules.builtin.modinfo has them: `MODULE.alias=NAME`.
    builtin_aliases: Vec<String>,
    /// Alias pattern and module, in file order.
    aliases: Vec<(String, String)>,
    /// Normalised alias to modules.
    by_alias: BTreeMap<String, Vec<String>>,
    /// Module and its soft dependency line, in file order.
    softdeps: Vec<(String, String)>,
}

/// `-` and `_` are the same to the kernel.
#[must_use]
pub fn normal(name: &str) -> String {
    name.replace('-', "_")
}

impl Index {
    /// Reads the indexes of `kernel` in `tree`.
    ///
    /// # Errors
    /// [`PackError::NoKernel`], [`PackError::NoModuleIndex`], [`PackError::Read`].
    pub fn load(tree: &Path, kernel: &str) -> Result<Self, PackError> {
        let all = tree.join("usr/lib/modules");
        let dir = all.join(kernel);
        if !dir.is_dir() {
            return Err(PackError::NoKernel {
                found: kernels(&all),
                path: all,
                kernel: kernel.to_owned(),
            });
        }
        let dep = dir.join("modules.dep");
        if !dep.is_file() {
            return Err(PackError::NoModuleIndex {
                path: dep,
                tree: tree.to_owned(),
                kernel: kernel.to_owned(),
            });
        }
        let mut index = Self::default();
        index.add_dep(&read(&dep)?);
        // Kernels without modules still have these four files after depmod, if empty.
        index.add_alias(&read(&dir.join("modules.alias"))?);
        index.add_softdep(&read(&dir.join("modules.softdep"))?);
        index.add_builtin(read(&dir.join("modules.builtin"))?);
        let info = dir.join("modules.builtin.modinfo");
        // Kernels before 5.2 have none.
        if info.exists() {
            index.add_builtin_info(&read(&info)?);
        }
        Ok(index)
    }

    fn add_dep(&mut self, text: &str) {
        for line in text.lines() {
            let Some((path, needs)) = line.split_once(':') else {
                continue;
            };
            let needs = needs.split_whitespace().map(name_of).collect();
            self.modules.insert(
                name_of(path),
                Module {
                    path: path.to_owned(),
                    needs,
                },
            );
        }
    }

    fn add_alias(&mut self, text: &str) {
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (Some("alias"), Some(alias), Some(module)) =
                (words.next(), words.next(), words.next())
            else {
                continue;
            };
            self.aliases.push((alias.to_owned(), normal(module)));
            self.by_alias
                .entry(normal(alias))
                .or_default()
                .push(normal(module));
        }
    }

    fn add_softdep(&mut self, text: &str) {
        for line in text.lines() {
            let Some(rest) = line.strip_prefix("softdep ") else {
                continue;
            };
            let Some((module, wanted)) = rest.split_once(' ') else {
                continue;
            };
            self.softdeps.push((normal(module), wanted.to_owned()));
        }
    }

    fn add_builtin(&mut self, text: String) {
        self.builtin.extend(text.lines().map(name_of));
        self.builtin_text = text;
    }

    /// Takes the aliases without wildcards: `fs-ext4`, `crypto-sha256` and the like, which are asked for by name. Those of
    /// devices are left out: a driver that is built in needs no help to find its device.
    fn add_builtin_info(&mut self, text: &str) {
        for item in text.split('\0') {
            let Some((key, alias)) = item.split_once('=') else {
                continue;
            };
            let wildcard = alias.contains(['*', '?', '[']);
            if let Some(module) = key.strip_suffix(".alias").filter(|_| !wildcard) {
                self.builtin.insert(normal(alias));
                self.builtin_aliases.push(format!("{module}.alias={alias}"));
            }
        }
    }

    /// What `name` (a module, or an alias without wildcards) stands for.
    #[must_use]
    pub fn resolve(&self, name: &str) -> Resolved {
        let name = normal(name);
        if self.modules.contains_key(&name) {
            return Resolved::Modules(vec![name]);
        }
        // Loadable ones first: `sha256` is built in as generic code, and there is a faster module of that name.
        match self.by_alias.get(&name) {
            Some(modules) => Resolved::Modules(modules.clone()),
            None if self.builtin.contains(&name) => Resolved::Builtin,
            None => Resolved::Missing,
        }
    }

    /// The module of a normalised name.
    #[must_use]
    pub fn module(&self, name: &str) -> Option<&Module> {
        self.modules.get(name)
    }

    /// `names` and everything they need, each with the label of the name that first asked for it.
    #[must_use]
    pub fn closure<L: Copy>(
        &self,
        names: impl IntoIterator<Item = (String, L)>,
    ) -> BTreeMap<String, L> {
        let mut closed = BTreeMap::new();
        let mut waiting: Vec<(String, L)> = names.into_iter().collect();
        waiting.reverse();
        while let Some((name, label)) = waiting.pop() {
            let Some(module) = self.modules.get(&name) else {
                continue;
            };
            if closed.contains_key(&name) {
                continue;
            }
            waiting.extend(module.needs.iter().map(|need| (need.clone(), label)));
            waiting.extend(self.soft_needs(&name).into_iter().map(|need| (need, label)));
            closed.insert(name, label);
        }
        closed
    }

    /// Modules that `pre:` and `post:` of a module name. What the tree lacks is left out, as modprobe does.
    fn soft_needs(&self, module: &str) -> Vec<String> {
        let lines = self.softdeps.iter().filter(|(of, _)| of == module);
        lines
            .flat_map(|(_, wanted)| soft_words(wanted))
            .fold(Vec::new(), |mut all, word| {
                if let Resolved::Modules(modules) = self.resolve(word) {
                    all.extend(modules);
                }
                all
            })
    }

    /// modules.dep of the packed modules, with the names they have in the initrd.
    #[must_use]
    pub fn dep_text(&self, packed: &BTreeSet<String>) -> String {
        let mut out = String::new();
        for module in packed.iter().filter_map(|name| self.modules.get(name)) {
            let needs = module
                .needs
                .iter()
                .filter_map(|need| self.modules.get(need));
            let needs: String = needs
                .map(|need| format!(" {}", plain_name(&need.path)))
                .collect();
            out.push_str(&format!("{}:{needs}\n", plain_name(&module.path)));
        }
        out
    }

    /// modules.alias of the packed modules.
    #[must_use]
    pub fn alias_text(&self, packed: &BTreeSet<String>) -> String {
        let lines = self
            .aliases
            .iter()
            .filter(|(_, module)| packed.contains(module));
        lines
            .map(|(alias, module)| format!("alias {alias} {module}\n"))
            .collect()
    }

    /// modules.softdep of the packed modules.
    #[must_use]
    pub fn softdep_text(&self, packed: &BTreeSet<String>) -> String {
        let lines = self
            .softdeps
            .iter()
            .filter(|(module, _)| packed.contains(module));
        lines
            .map(|(module, wanted)| format!("softdep {module} {wanted}\n"))
            .collect()
    }

    /// modules.builtin.modinfo, reduced to exact aliases.
    #[must_use]
    pub fn builtin_info_text(&self) -> String {
        self.builtin_aliases
            .iter()
            .flat_map(|alias| [alias, "\0"])
            .collect()
    }

    /// modules.builtin, whole: it tells "built in" from "missing".
    #[must_use]
    pub fn builtin_text(&self) -> &str {
        &self.builtin_text
    }
}

/// The module names after `pre:` and `post:`; words before either mean nothing (modprobe.d(5)).
fn soft_words(wanted: &str) -> Vec<&str> {
    let mut counts = false;
    let mut words = Vec::new();
    for word in wanted.split_whitespace() {
        match word {
            "pre:" | "post:" => counts = true,
            _ if counts => words.push(word),
            _ => {}
        }
    }
    words
}

/// The normalised module name of a path like `kernel/fs/btrfs/btrfs.ko.xz`.
fn name_of(path: &str) -> String {
    let file = path.trim().rsplit('/').next().unwrap_or(path);
    let plain = plain_name(file);
    normal(plain.strip_suffix(".ko").unwrap_or(plain))
}

fn read(path: &PathBuf) -> Result<String, PackError> {
    std::fs::read_to_string(path).map_err(|source| PackError::Read {
        path: path.clone(),
        purpose: "index of kernel modules",
        remedy: "run depmod for this kernel again",
        source,
    })
}

fn kernels(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut found: Vec<String> = entries
        .flatten()
        .map(|entry| entry.file_name().display().to_string())
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> Index {
        let mut index = Index::default();
        index.add_dep(
            "kernel/fs/btrfs/btrfs.ko.xz: kernel/lib/raid6.ko.xz kernel/crypto/xor.ko.xz\n\
             kernel/lib/raid6.ko.xz:\nkernel/crypto/xor.ko.xz:\nkernel/crypto/crc32c-intel.ko.xz:\n\
             kernel/crypto/crc32c_generic.ko.zst:\nkernel/b/left.ko: \nkernel/a/after.ko:\n",
        );
        index.add_alias(
            "alias crypto-crc32c crc32c_intel\nalias crypto-crc32c crc32c_generic\nalias pci:v*d* left\n# no\nalias fs-btrfs btrfs\n",
        );
        index.add_softdep(
            "# comment\nsoftdep btrfs pre: crypto-crc32c post: after\nsoftdep btrfs pre: nothing\nsoftdep raid6 left\n",
        );
        index.add_builtin("kernel/drivers/nvme.ko\n".to_owned());
        index.add_builtin_info(
            "ext4.license=GPL\0ext4.alias=fs-ext4\0nvme.alias=pci:v*\0crc.alias=crypto-crc32c\0",
        );
        index
    }

    fn names(index: &Index, of: &str) -> Vec<String> {
        index.closure([(of.to_owned(), ())]).into_keys().collect()
    }

    #[test]
    fn the_closure_follows_dep_and_softdep_through_aliases() {
        let all = [
            "after",
            "btrfs",
            "crc32c_generic",
            "crc32c_intel",
            "raid6",
            "xor",
        ];
        assert_eq!(names(&index(), "btrfs"), all);
    }

    #[test]
    fn words_before_pre_and_post_mean_nothing() {
        assert_eq!(names(&index(), "raid6"), ["raid6"]);
        assert_eq!(soft_words("gcm pre: a b post: c"), ["a", "b", "c"]);
    }

    #[test]
    fn dashes_and_endings_do_not_matter() {
        assert_eq!(
            index().resolve("crc32c-intel"),
            Resolved::Modules(vec!["crc32c_intel".to_owned()])
        );
        assert_eq!(
            index().resolve("fs-btrfs"),
            Resolved::Modules(vec!["btrfs".to_owned()])
        );
        assert_eq!(index().resolve("nvme"), Resolved::Builtin);
        assert_eq!(index().resolve("zfs"), Resolved::Missing);
    }

    #[test]
    fn built_in_aliases_are_known_and_modules_come_first() {
        let index = index();
        assert_eq!(index.resolve("fs-ext4"), Resolved::Builtin);
        assert!(matches!(index.resolve("crypto-crc32c"), Resolved::Modules(all) if all.len() == 2));
        let info = index.builtin_info_text();
        assert_eq!(info, "ext4.alias=fs-ext4\0crc.alias=crypto-crc32c\0");
    }

    #[test]
    fn reduced_indexes_speak_of_packed_modules_only() {
        let index = index();
        let packed: BTreeSet<String> = index
            .closure([("btrfs".to_owned(), ())])
            .into_keys()
            .collect();
        let dep = index.dep_text(&packed);
        assert!(
            dep.contains("kernel/fs/btrfs/btrfs.ko: kernel/lib/raid6.ko kernel/crypto/xor.ko\n"),
            "{dep}"
        );
        assert!(!dep.contains("left"));
        assert!(!dep.contains(".xz") && !dep.contains(".zst"));
        let alias = index.alias_text(&packed);
        assert_eq!(
            alias,
            "alias crypto-crc32c crc32c_intel\nalias crypto-crc32c crc32c_generic\nalias fs-btrfs btrfs\n"
        );
        assert!(
            index
                .softdep_text(&packed)
                .contains("softdep btrfs pre: crypto-crc32c post: after\n")
        );
    }
}
