//! Reads `deny.toml` as cargo-deny does, for machines without it: who may depend on whom, wildcards, licences, sources.
//!
//! One table holds the dependency rule for both: an entry of `bans.deny` is a crate that nobody may name but its
//! `wrappers`. Every crate of the workspace that another one names must have such an entry, so that a new crate
//! cannot slip in beside the rule.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::cargo::{Workspace, metadata};
use crate::spdx;

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Crates that only tests and measurements may use.
const FOR_TESTS: &[&str] = &["warren-adapter-conformance", "warren-e2e", "warren-test-servers"];
/// Libraries whose tests and examples run on adapters, which they never bring along: who depends on the library chooses.
const FREE_OF_ADAPTERS: &[&str] = &["warren-client"];
/// The crates that are nothing but tests and measurements.
const TESTS: &[&str] = &[
    "warren-adapter-conformance",
    "warren-bench",
    "warren-e2e",
    "warren-torture",
    "warren-xtask",
];

/// Fails with every violation.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let file = workspace.root.join("deny.toml");
    let text = std::fs::read_to_string(&file).context("cannot read deny.toml")?;
    let rules = Rules::parse(&text).context("cannot understand deny.toml")?;
    let graph = Graph::of(&metadata(&[])?, &in_use(workspace)?)?;
    let violations = rules.violations(&graph);
    if !violations.is_empty() {
        bail!(
            "{} violations of deny.toml:\n  {}",
            violations.len(),
            violations.join("\n  ")
        );
    }
    eprintln!(
        "{} crates, {} of them ours: the dependency rule, licences and sources hold",
        graph.0.len(),
        graph.ours()
    );
    Ok(())
}

/// Returns `name version` of every package that is really built, on any platform: the lock file, and with it
/// `cargo metadata`, also holds what stands behind features that nobody switched on.
fn in_use(workspace: &Workspace) -> Result<BTreeSet<String>> {
    let mut tree = workspace.cargo([
        "tree",
        "--workspace",
        "--target=all",
        "--edges=all",
        "--prefix=none",
    ]);
    let output = tree.arg("--format={p}").output().context("cannot start cargo")?;
    ensure!(
        output.status.success(),
        "cargo tree failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let lines = String::from_utf8(output.stdout)?;
    let package = |line: &str| {
        let (name, rest) = line.split_once(" v")?;
        Some(format!("{name} {}", rest.split(' ').next()?))
    };
    Ok(lines.lines().filter_map(package).collect())
}

/// What `deny.toml` says.
#[derive(Debug)]
struct Rules {
    bans: Vec<Ban>,
    wildcards: Wildcards,
    licences: Vec<String>,
    exceptions: BTreeMap<String, Vec<String>>,
}

/// Which dependencies may be named without a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wildcards {
    Any,
    /// Those that are named by path.
    Paths,
    None,
}

#[derive(Debug)]
struct Ban {
    name: String,
    wrappers: BTreeSet<String>,
    reason: String,
}

impl Rules {
    fn parse(text: &str) -> Result<Self> {
        let file: toml::Table = text.parse()?;
        let section = |name: &str| {
            file.get(name)
                .and_then(toml::Value::as_table)
                .context(format!("no [{name}]"))
        };
        let banning = section("bans")?;
        let paths_may = banning.get("allow-wildcard-paths").and_then(toml::Value::as_bool);
        let wildcards = match (banning.get("wildcards").and_then(toml::Value::as_str), paths_may) {
            (Some("deny"), Some(true)) => Wildcards::Paths,
            (Some("deny"), _) => Wildcards::None,
            _ => Wildcards::Any,
        };
        let mut bans = Vec::new();
        for entry in entries(banning, "deny") {
            let wrappers = entry
                .get("wrappers")
                .map(strings)
                .unwrap_or_default()
                .into_iter()
                .collect();
            bans.push(Ban {
                name: text_of(entry, "crate")?,
                wrappers,
                reason: text_of(entry, "reason")?,
            });
        }
        let licences = section("licenses")?;
        let mut exceptions = BTreeMap::new();
        for entry in entries(licences, "exceptions") {
            exceptions.insert(
                text_of(entry, "crate")?,
                entry.get("allow").map(strings).unwrap_or_default(),
            );
        }
        Ok(Self {
            bans,
            wildcards,
            licences: licences.get("allow").map(strings).unwrap_or_default(),
            exceptions,
        })
    }

    fn violations(&self, graph: &Graph) -> Vec<String> {
        let mut violations = Vec::new();
        for package in &graph.0 {
            self.banned(package, &mut violations);
            self.wildcard(package, &mut violations);
            self.licence(package, &mut violations);
            if package
                .source
                .as_deref()
                .is_some_and(|source| source != CRATES_IO)
            {
                violations.push(format!("{} does not come from crates.io", package.name));
            }
        }
        violations.sort();
        violations.dedup();
        violations
    }

    fn banned(&self, package: &Package, violations: &mut Vec<String>) {
        let name = &package.name;
        for (dependency, kind) in &package.dependencies {
            let ban = self.bans.iter().find(|ban| ban.name == *dependency);
            match ban {
                Some(ban) if !ban.wrappers.contains(name) => {
                    violations.push(format!("{name} must not depend on {dependency}: {}", ban.reason));
                }
                None if package.is_ours() && dependency.starts_with("warren") => violations.push(format!(
                    "{dependency} is named by {name} but has no entry in bans.deny: say who may depend on it"
                )),
                _ => {}
            }
            let for_tests = FOR_TESTS.contains(&dependency.as_str()) && !TESTS.contains(&name.as_str());
            if for_tests && *kind != Kind::Development {
                violations.push(format!(
                    "{name} ships {dependency}, which is for tests: make it a dev-dependency"
                ));
            }
            let adapter = dependency.starts_with("warren-adapter-") || dependency == "warren-pipeline";
            if adapter && FREE_OF_ADAPTERS.contains(&name.as_str()) && *kind != Kind::Development {
                violations.push(format!(
                    "{name} ships {dependency}: its users choose their adapters, make it a dev-dependency"
                ));
            }
        }
    }

    fn wildcard(&self, package: &Package, violations: &mut Vec<String>) {
        for (dependency, by_path) in &package.wildcards {
            let allowed = match self.wildcards {
                Wildcards::Any => true,
                Wildcards::Paths => *by_path,
                Wildcards::None => false,
            };
            if !allowed {
                violations.push(format!("{} takes any version of {dependency}", package.name));
            }
        }
    }

    fn licence(&self, package: &Package, violations: &mut Vec<String>) {
        let exception = self.exceptions.get(&package.name);
        let allowed: Vec<&str> = self
            .licences
            .iter()
            .chain(exception.into_iter().flatten())
            .map(String::as_str)
            .collect();
        match &package.licence {
            Some(licence) if spdx::allows(licence, &allowed) => {}
            Some(licence) => violations.push(format!("{} has the licence {licence}", package.name)),
            None => violations.push(format!("{} names no licence", package.name)),
        }
    }
}

fn entries<'a>(section: &'a toml::Table, key: &str) -> impl Iterator<Item = &'a toml::Table> {
    section
        .get(key)
        .and_then(toml::Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(toml::Value::as_table)
}

fn text_of(entry: &toml::Table, key: &str) -> Result<String> {
    entry
        .get(key)
        .and_then(toml::Value::as_str)
        .map(ToOwned::to_owned)
        .with_context(|| format!("`{key}` in {entry}"))
}

fn strings(value: &toml::Value) -> Vec<String> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|item| item.as_str().map(ToOwned::to_owned))
        .collect()
}

/// Every package of the build, with what it really uses.
#[derive(Debug)]
struct Graph(Vec<Package>);

#[derive(Debug)]
struct Package {
    name: String,
    source: Option<String>,
    licence: Option<String>,
    dependencies: BTreeSet<(String, Kind)>,
    /// The dependencies named without a version, and whether each is named by path.
    wildcards: BTreeSet<(String, bool)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Normal,
    Build,
    Development,
}

impl Graph {
    fn of(metadata: &Value, in_use: &BTreeSet<String>) -> Result<Self> {
        let text = |value: &Value| value.as_str().map(ToOwned::to_owned);
        let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
        let mut names = BTreeMap::new();
        let mut packages = BTreeMap::new();
        for package in list(&metadata["packages"]) {
            let id = text(&package["id"]).context("a package without an id")?;
            let name = text(&package["name"]).context("a package without a name")?;
            let version = text(&package["version"]).context("a package without a version")?;
            if !in_use.contains(&format!("{name} {version}")) {
                continue;
            }
            names.insert(id.clone(), name.clone());
            let (source, licence) = (text(&package["source"]), text(&package["license"]));
            let wildcards = list(&package["dependencies"])
                .iter()
                .filter(|dependency| dependency["req"] == "*")
                .filter_map(|dependency| Some((text(&dependency["name"])?, dependency["path"].is_string())))
                .collect();
            packages.insert(
                id,
                Package {
                    name,
                    source,
                    licence,
                    dependencies: BTreeSet::new(),
                    wildcards,
                },
            );
        }
        for node in list(&metadata["resolve"]["nodes"]) {
            let Some(package) = text(&node["id"]).and_then(|id| packages.get_mut(&id)) else {
                continue;
            };
            for dependency in list(&node["deps"]) {
                let Some(name) = text(&dependency["pkg"]).and_then(|id| names.get(&id)) else {
                    continue;
                };
                for kind in list(&dependency["dep_kinds"]) {
                    let kind = match kind["kind"].as_str() {
                        Some("dev") => Kind::Development,
                        Some("build") => Kind::Build,
                        _ => Kind::Normal,
                    };
                    package.dependencies.insert((name.clone(), kind));
                }
            }
        }
        Ok(Self(packages.into_values().collect()))
    }

    fn ours(&self) -> usize {
        self.0.iter().filter(|package| package.is_ours()).count()
    }
}

impl Package {
    /// A package without a source lies in the workspace.
    fn is_ours(&self) -> bool {
        self.source.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = r#"
        [licenses]
        allow = ["MIT"]
        exceptions = [{ crate = "odd", allow = ["MPL-2.0"] }]
        [bans]
        wildcards = "deny"
        allow-wildcard-paths = true
        deny = [
            { crate = "openssl", reason = "one TLS is enough" },
            { crate = "warren-domain", wrappers = ["warren-adapter-x"], reason = "the core" },
            { crate = "warren-adapter-x", wrappers = ["warren-client"], reason = "only programs name an adapter" },
            { crate = "warren-adapter-conformance", wrappers = ["warren-adapter-x"], reason = "for tests" },
        ]
    "#;

    fn package(name: &str, licence: &str, dependencies: &[(&str, Kind)]) -> Package {
        Package {
            name: name.to_owned(),
            source: (!name.starts_with("warren")).then(|| CRATES_IO.to_owned()),
            licence: Some(licence.to_owned()),
            dependencies: dependencies
                .iter()
                .map(|(name, kind)| ((*name).to_owned(), *kind))
                .collect(),
            wildcards: BTreeSet::new(),
        }
    }

    fn violations(packages: Vec<Package>) -> Vec<String> {
        Rules::parse(RULES).unwrap().violations(&Graph(packages))
    }

    #[test]
    fn what_the_rule_allows_passes() {
        let allowed = vec![
            package(
                "warren-adapter-x",
                "MIT",
                &[("warren-domain", Kind::Normal), ("serde", Kind::Normal)],
            ),
            package(
                "warren-adapter-x",
                "MIT",
                &[("warren-adapter-conformance", Kind::Development)],
            ),
            package("warren-client", "MIT", &[("warren-adapter-x", Kind::Development)]),
            package("odd", "MPL-2.0", &[]),
            Package {
                wildcards: BTreeSet::from([("warren-domain".to_owned(), true)]),
                ..package("warren-adapter-x", "MIT", &[])
            },
        ];
        assert!(violations(allowed).is_empty());
    }

    #[test]
    fn every_way_around_the_rule_is_named() {
        let found = violations(vec![
            package(
                "warren-process",
                "MIT",
                &[("warren-domain", Kind::Normal), ("openssl", Kind::Build)],
            ),
            package(
                "warren-adapter-x",
                "MIT",
                &[("warren-adapter-conformance", Kind::Normal)],
            ),
            package("warren-adapter-x", "MIT", &[("warren-common", Kind::Normal)]),
            package("warren-client", "MIT", &[("warren-adapter-x", Kind::Normal)]),
            package("gpl", "GPL-3.0", &[]),
            Package {
                source: Some("git+ssh://somewhere".to_owned()),
                ..package("git", "MIT", &[])
            },
            Package {
                wildcards: BTreeSet::from([("serde".to_owned(), false)]),
                ..package("loose", "MIT", &[])
            },
            Package {
                licence: None,
                ..package("none", "", &[])
            },
        ]);
        assert_eq!(
            found,
            [
                "git does not come from crates.io",
                "gpl has the licence GPL-3.0",
                "loose takes any version of serde",
                "none names no licence",
                "warren-adapter-x ships warren-adapter-conformance, which is for tests: make it a dev-dependency",
                "warren-client ships warren-adapter-x: its users choose their adapters, make it a dev-dependency",
                "warren-common is named by warren-adapter-x but has no entry in bans.deny: say who may depend on it",
                "warren-process must not depend on openssl: one TLS is enough",
                "warren-process must not depend on warren-domain: the core",
            ]
        );
    }
}
