//! What a run will do, decided before it starts.

use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;
use serde::{Deserialize, Serialize};

use crate::fault::{Fault, Link, Trouble};

/// The layout of the file; another one is refused.
const VERSION: u32 = 2;

/// How many of each program there are.
pub const INSTANCES: usize = 2;

/// The most faults at once.
const MOST_AT_ONCE: usize = 3;

/// How many seeds of the gate follow each other: together they meet what is promised of them.
const SEEDS: u64 = 3;

/// After so many episodes of a long run the cards are dealt again, and the programs set up anew.
const EPISODES_A_DEAL: usize = 20;

/// How many messages a packet may hold: one, some, and the programs' own default.
const PACKETS: [&str; 3] = ["1", "20", "500"];

/// When an intake is killed while a hung broker has it fill its spool: after the longest deadline of a publication.
const KILLED_WHILE_SPOOLING: u64 = 5_500;

/// What the broker needs from a kill to its next connection, estimated; the time of the plan has it, the run waits for
/// what it really is.
const RABBIT_START_MILLIS: u64 = 10_000;

/// Settings of a program, by environment variable.
pub type Settings = Vec<(String, String)>;

/// How large a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// For every change: three seeds within eight minutes.
    Gate,
    /// For a release: one seed, three hundred injections.
    Long,
}

/// Everything that is decided about a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Of the file's layout.
    pub version: u32,
    /// What everything random comes from.
    pub seed: u64,
    /// How large the run is.
    pub profile: Profile,
    /// Messages a second, whatever the answers are.
    pub rate: u64,
    /// How long the load runs before the first fault, milliseconds.
    pub warm_up: u64,
    /// How the programs are set up in the beginning.
    pub setup: Setup,
    /// What happens, one after the other.
    pub episodes: Vec<Episode>,
}

/// How the programs are set up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// Of `ingest-api`.
    pub ingest: Settings,
    /// Of `store-worker`.
    pub worker: Settings,
    /// Whether the intakes have a spool, each its own: then they accept while RabbitMQ is away.
    pub spool: bool,
}

/// Some faults that overlap, and the quiet time after the last has healed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Episode {
    /// The programs are set up anew before it, one after the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setup: Option<Setup>,
    /// The faults, at most three at once.
    pub injections: Vec<Injection>,
    /// How long nothing happens afterwards, at least, milliseconds.
    pub quiet: u64,
}

/// A fault, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Injection {
    /// Milliseconds after the beginning of the episode.
    pub after: u64,
    /// How long it lasts, milliseconds.
    pub length: u64,
    /// What happens.
    pub fault: Fault,
}

/// What a plan is made from.
#[derive(Clone, Debug)]
pub struct Wish {
    /// What everything random comes from.
    pub seed: u64,
    /// How large the run is.
    pub profile: Profile,
    /// Only faults whose name begins with one of these; all, if it is empty.
    pub only: Vec<String>,
    /// How long the faults last altogether, milliseconds; the profile's, if it is not given.
    pub duration: Option<u64>,
}

impl Plan {
    /// Makes the plan of a seed.
    ///
    /// # Errors
    /// `only` selects no fault.
    pub fn of(wish: &Wish) -> Result<Self> {
        let mut rng = Rng::with_seed(wish.seed ^ 0x746f_7274_7572_6500);
        let millis = wish.duration.unwrap_or(match wish.profile {
            Profile::Gate => 94_000,
            Profile::Long => 22 * 60_000,
        });
        let mut deck = Deck::deal(&mut rng, wish)?;
        let setup = setup(&mut rng, wish.seed, wish.seed);
        let mut episodes: Vec<Episode> = Vec::new();
        let (mut time, mut deal) = (0, 0);
        let mut surely = surely(&mut rng, wish, wish.seed);
        let mut due = due(&mut rng, wish);
        let mut spool = setup.spool;
        while time < millis {
            let mut anew = None;
            if wish.profile == Profile::Long && episodes.len() == (deal + 1) * EPISODES_A_DEAL {
                deal += 1;
                let key = wish.seed + deal as u64;
                deck = Deck::deal(&mut rng, wish)?;
                // A spool meets every size in turn.
                let next = self::setup(&mut rng, key, key + key / SEEDS);
                spool = next.spool;
                anew = Some(next);
                surely = self::surely(&mut rng, wish, key);
            }
            let first = surely
                .pop()
                .or_else(|| due.pop().map(|card| card.fault(&mut rng)));
            let mut episode = deck.episode(&mut rng, first, &mut due, spool);
            episode.setup = anew;
            time += episode.length();
            episodes.push(episode);
        }
        Ok(Self {
            version: VERSION,
            seed: wish.seed,
            profile: wish.profile,
            rate: rng.u64(500..900),
            warm_up: 4_000,
            setup,
            episodes,
        })
    }

    /// Makes a plan of what is given, with a warm-up.
    pub fn of_episodes(seed: u64, rate: u64, setup: Setup, episodes: Vec<Episode>) -> Self {
        Self {
            version: VERSION,
            seed,
            profile: Profile::Gate,
            rate,
            warm_up: 2_000,
            setup,
            episodes,
        }
    }

    /// Reads a plan that was written down.
    ///
    /// # Errors
    /// The file cannot be read, or is none.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let plan: Self =
            serde_json::from_slice(&text).with_context(|| format!("{} is no plan", path.display()))?;
        ensure!(
            plan.version == VERSION,
            "{} has the layout {}, and this program knows {VERSION}",
            path.display(),
            plan.version
        );
        Ok(plan)
    }

    /// Writes the plan down.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Returns a short name of everything in it: plans of the same hash do the same.
    pub fn hash(&self) -> Result<String> {
        // FNV-1a: names a plan in a report, defends against nobody.
        let hash = serde_json::to_vec(self)?
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
            });
        Ok(format!("{hash:016x}"))
    }

    /// Returns how long the faults and the quiet times will take, milliseconds, the warm-up included.
    pub fn length(&self) -> u64 {
        self.warm_up + self.episodes.iter().map(Episode::length).sum::<u64>()
    }

    /// Returns every injection.
    pub fn injections(&self) -> impl Iterator<Item = &Injection> {
        self.episodes.iter().flat_map(|episode| &episode.injections)
    }
}

impl Episode {
    fn length(&self) -> u64 {
        let ends = self.injections.iter().map(|injection| {
            let restart = match injection.fault {
                Fault::KillRabbit => RABBIT_START_MILLIS,
                Fault::StopRabbit | Fault::KillPostgres | Fault::StopPostgres => 3_000,
                Fault::TermIngest { .. } | Fault::TermWorker { .. } => 1_500,
                _ => 0,
            };
            injection.after + injection.length + restart
        });
        ends.max().unwrap_or(0) + self.quiet
    }
}

impl fmt::Display for Injection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {} ms", self.fault, self.length)
    }
}

/// The faults of one seed, each as often as it is likely.
#[derive(Debug)]
struct Deck(Vec<(u32, Card)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Card {
    KillIngest,
    KillWorker,
    TermIngest,
    TermWorker,
    FreezeIngest,
    FreezeWorker,
    FreezeRabbit,
    FreezePostgres,
    KillRabbit,
    StopRabbit,
    MemoryAlarm,
    DiskAlarm,
    CloseConnections,
    DeleteBindings,
    RevokeBroker,
    FullQueue,
    KillPostgres,
    StopPostgres,
    NoConnections,
    LockTable,
    SlowInserts,
    ReadOnly,
    RevokeInsert,
    EndSessions,
    Link(Link, Trouble),
    PoisonPackets,
    PoisonRows,
    RepeatedPackets,
}

/// Every card but those of the links, and how likely it is: what takes long is rare.
const CARDS: [(u32, Card); 27] = [
    (8, Card::KillIngest),
    (8, Card::KillWorker),
    (4, Card::TermIngest),
    (4, Card::TermWorker),
    (4, Card::FreezeIngest),
    (4, Card::FreezeWorker),
    (2, Card::FreezeRabbit),
    (3, Card::FreezePostgres),
    (1, Card::KillRabbit),
    (2, Card::StopRabbit),
    (4, Card::MemoryAlarm),
    (4, Card::DiskAlarm),
    (4, Card::CloseConnections),
    (3, Card::DeleteBindings),
    (3, Card::RevokeBroker),
    (3, Card::FullQueue),
    (4, Card::KillPostgres),
    (3, Card::StopPostgres),
    (3, Card::NoConnections),
    (3, Card::LockTable),
    (2, Card::SlowInserts),
    (3, Card::ReadOnly),
    (3, Card::RevokeInsert),
    (4, Card::EndSessions),
    (4, Card::PoisonPackets),
    (3, Card::PoisonRows),
    (4, Card::RepeatedPackets),
];

impl Deck {
    /// Takes the cards that `only` allows, and of those a random part: a plan of few kinds reaches states that one of
    /// all kinds never stays in.
    fn deal(rng: &mut Rng, wish: &Wish) -> Result<Self> {
        let mut cards: Vec<_> = Card::all().collect();
        // Drawn for every card, chosen or not, so that `--only` leaves the rest of the plan as it is.
        let kept: Vec<_> = cards.iter().map(|_| rng.u8(..3) > 0).collect();
        let chosen = |card: &Card| {
            let name = card.fault(&mut Rng::with_seed(0)).name();
            wish.only.iter().any(|only| name.starts_with(only.as_str()))
        };
        if wish.only.is_empty() {
            let mut kept = kept.into_iter();
            cards.retain(|_| kept.next().unwrap_or(true));
        } else {
            cards.retain(|(_, card)| chosen(card));
            ensure!(!cards.is_empty(), "no fault begins with {:?}", wish.only);
        }
        Ok(Self(cards))
    }

    fn draw(&self, rng: &mut Rng) -> Card {
        let all: u32 = self.0.iter().map(|(weight, _)| weight).sum();
        let mut place = rng.u32(..all);
        for (weight, card) in &self.0 {
            if place < *weight {
                return *card;
            }
            place -= weight;
        }
        self.0[0].1
    }

    /// Makes an episode: of the fault that comes first, of what is due and fits, and of what is drawn.
    fn episode(&self, rng: &mut Rng, first: Option<Fault>, due: &mut Vec<Card>, spool: bool) -> Episode {
        let wanted = match rng.u8(..10) {
            0..=3 => 1,
            4..=7 => 2,
            _ => MOST_AT_ONCE,
        };
        let mut injections: Vec<Injection> = Vec::new();
        let killed = first == Some(Fault::FreezeRabbit) && spool;
        for attempt in 0..wanted * 3 {
            if injections.len() == wanted {
                break;
            }
            let fits_all = |fault: &Fault| injections.iter().all(|other| fits(&other.fault, fault));
            let fault = match &first {
                Some(first) if attempt == 0 => first.clone(),
                _ => {
                    // Whatever is drawn of it, what it touches is the same.
                    let mut faults = due.iter().map(|card| card.fault(&mut rng.clone()));
                    match faults.rposition(|fault| fits_all(&fault)) {
                        Some(place) => due.remove(place).fault(rng),
                        None => self.draw(rng).fault(rng),
                    }
                }
            };
            // Drawn also when the fault does not fit, so that every attempt takes as much of the stream.
            let length = length(&fault, rng);
            let after = if injections.is_empty() {
                0
            } else {
                rng.u64(..1_500)
            };
            if fits_all(&fault) {
                injections.push(Injection { after, length, fault });
            }
        }
        let kill = Fault::KillIngest {
            instance: rng.usize(..INSTANCES),
        };
        if killed
            && injections.len() < MOST_AT_ONCE
            && injections.iter().all(|other| fits(&other.fault, &kill))
        {
            injections.push(Injection {
                after: KILLED_WHILE_SPOOLING,
                length: 0,
                fault: kill,
            });
        }
        Episode {
            setup: None,
            injections,
            quiet: rng.u64(1_500..2_500),
        }
    }
}

/// Tells whether two faults can happen at once and both have an effect.
fn fits(a: &Fault, b: &Fault) -> bool {
    let apart = |a: &[String], b: &[String]| a.iter().all(|claim| !b.contains(claim));
    apart(&a.claims(), &b.claims()) && apart(&a.needs(), &b.claims()) && apart(&a.claims(), &b.needs())
}

impl Card {
    /// Returns every card, and how likely it is.
    fn all() -> impl Iterator<Item = (u32, Self)> {
        let links = Link::ALL.iter().flat_map(|link| {
            Trouble::ALL
                .iter()
                .map(|trouble| (1, Self::Link(*link, *trouble)))
        });
        CARDS.into_iter().chain(links)
    }

    fn fault(self, rng: &mut Rng) -> Fault {
        let instance = rng.usize(..INSTANCES);
        match self {
            Self::KillIngest => Fault::KillIngest { instance },
            Self::KillWorker => Fault::KillWorker { instance },
            Self::TermIngest => Fault::TermIngest { instance },
            Self::TermWorker => Fault::TermWorker { instance },
            Self::FreezeIngest => Fault::FreezeIngest { instance },
            Self::FreezeWorker => Fault::FreezeWorker { instance },
            Self::FreezeRabbit => Fault::FreezeRabbit,
            Self::FreezePostgres => Fault::FreezePostgres,
            Self::KillRabbit => Fault::KillRabbit,
            Self::StopRabbit => Fault::StopRabbit,
            Self::MemoryAlarm => Fault::MemoryAlarm,
            Self::DiskAlarm => Fault::DiskAlarm,
            Self::CloseConnections => Fault::CloseConnections,
            Self::DeleteBindings => Fault::DeleteBindings,
            Self::RevokeBroker => Fault::RevokeBroker,
            Self::FullQueue => Fault::FullQueue,
            Self::KillPostgres => Fault::KillPostgres,
            Self::StopPostgres => Fault::StopPostgres,
            Self::NoConnections => Fault::NoConnections,
            Self::LockTable => Fault::LockTable,
            Self::SlowInserts => Fault::SlowInserts,
            Self::ReadOnly => Fault::ReadOnly,
            Self::RevokeInsert => Fault::RevokeInsert,
            Self::EndSessions => Fault::EndSessions,
            Self::PoisonPackets => Fault::PoisonPackets {
                count: rng.u64(1..20),
            },
            Self::PoisonRows => Fault::PoisonRows { count: rng.u64(1..8) },
            Self::RepeatedPackets => Fault::RepeatedPackets {
                count: rng.u64(5..60),
            },
            Self::Link(link, trouble) => Fault::Link {
                link,
                instance,
                trouble,
                amount: match trouble {
                    Trouble::Latency => rng.u64(20..800),
                    Trouble::Bandwidth => rng.u64(4_000..40_000),
                    Trouble::Slice => rng.u64(1..20),
                    // From within a frame to between a publication and its confirm.
                    // A worker sends its broker little more than acknowledgements.
                    Trouble::CutAfterUp if link == Link::Consume => rng.u64(1..200),
                    Trouble::CutAfterUp => rng.u64(1..20_000),
                    Trouble::CutAfterDown => rng.u64(1..400),
                    Trouble::Cut
                    | Trouble::Hole
                    | Trouble::Swallow
                    | Trouble::HalfOpenUp
                    | Trouble::HalfOpenDown => 0,
                },
            },
        }
    }
}

/// Draws how long a fault lasts: long enough to be met, and for those that hang long enough to be noticed.
fn length(fault: &Fault, rng: &mut Rng) -> u64 {
    let (shortest, longest) = match fault {
        Fault::KillIngest { .. } | Fault::KillWorker { .. } => (0, 1_500),
        Fault::TermIngest { .. } | Fault::TermWorker { .. } => (0, 500),
        Fault::FreezeRabbit => (6_500, 9_000),
        Fault::KillRabbit | Fault::StopRabbit => (0, 1_000),
        Fault::FreezeIngest { .. } | Fault::FreezeWorker { .. } | Fault::FreezePostgres => (800, 7_000),
        Fault::MemoryAlarm | Fault::DiskAlarm => (1_000, 7_000),
        Fault::KillPostgres | Fault::StopPostgres => (0, 1_500),
        Fault::CloseConnections | Fault::EndSessions => (200, 600),
        Fault::DeleteBindings => (500, 1_500),
        Fault::FullQueue => (2_000, 4_000),
        Fault::RevokeBroker | Fault::NoConnections | Fault::RevokeInsert | Fault::ReadOnly => (1_500, 4_000),
        Fault::LockTable | Fault::SlowInserts => (2_000, 6_000),
        Fault::Link {
            trouble: Trouble::Hole | Trouble::Swallow | Trouble::HalfOpenUp | Trouble::HalfOpenDown,
            ..
        } => (2_000, 8_000),
        Fault::Link { .. } => (1_000, 4_000),
        Fault::PoisonPackets { .. } | Fault::PoisonRows { .. } | Fault::RepeatedPackets { .. } => (100, 300),
    };
    rng.u64(shortest..=longest)
}

/// Draws limits and times: short ones, because a run has no minutes to wait for a default to pass.
/// Seeds that follow each other have every size of packets between them, and one of three a spool.
fn setup(rng: &mut Rng, key: u64, packets: u64) -> Setup {
    let set = |name: &str, value: String| (format!("WARREN_{name}"), value);
    let ingest = vec![
        set("AMQP__HEARTBEAT", format!("{}s", rng.u64(2..=5))),
        set("AMQP__PUBLISH_TIMEOUT", format!("{}ms", rng.u64(2_500..=5_000))),
        set(
            "AMQP__PACKET_MAX_MESSAGES",
            PACKETS[(packets % SEEDS) as usize].to_owned(),
        ),
        set("AMQP__MAX_UNCONFIRMED_ROUNDS", rng.u64(1..=4).to_string()),
        set("AMQP__MAX_UNCONFIRMED_PACKETS", pick(rng, &["16", "128"])),
    ];
    let worker = vec![
        set("AMQP__HEARTBEAT", format!("{}s", rng.u64(2..=5))),
        set("WORKER__BATCH_DELIVERIES", pick(rng, &["8", "32", "128"])),
        set("WORKER__BATCH_WAIT", pick(rng, &["5ms", "20ms", "50ms"])),
        set("WORKER__BATCHES_IN_FLIGHT", rng.u64(1..=2).to_string()),
        set("WORKER__RETRY_MAX", "1s".to_owned()),
        set("POSTGRES__LOCK_TIMEOUT", format!("{}ms", rng.u64(300..=900))),
        set(
            "POSTGRES__STATEMENT_TIMEOUT",
            format!("{}ms", rng.u64(1_000..=2_000)),
        ),
        set("POSTGRES__WRITE_CONNECTIONS", rng.u64(1..=2).to_string()),
    ];
    Setup {
        ingest,
        worker,
        // Without one there is more to see: that a broker that is away is answered with 503, and how soon.
        spool: key % SEEDS == 2,
    }
}

/// Returns the faults that a seed meets whatever chance brings: what found most in systems like this one, and of those
/// that take long one a seed, so that seeds that follow each other meet them all.
fn surely(rng: &mut Rng, wish: &Wish, key: u64) -> Vec<Fault> {
    let mut faults = if wish.only.is_empty() {
        always(key)
    } else {
        Vec::new()
    };
    rng.shuffle(&mut faults);
    faults
}

fn always(key: u64) -> Vec<Fault> {
    let instance = (key / SEEDS % 2) as usize;
    let publish = |trouble, amount| Fault::Link {
        link: Link::Publish,
        instance,
        trouble,
        amount,
    };
    let mut faults = vec![
        publish(Trouble::CutAfterDown, 40 + key % 200),
        publish(Trouble::Cut, 0),
        Fault::MemoryAlarm,
        Fault::KillPostgres,
        Fault::KillWorker { instance },
        Fault::KillIngest { instance },
        Fault::DeleteBindings,
    ];
    // With a spool and without: one refuses what the other keeps.
    faults.extend(match key % SEEDS {
        0 => vec![Fault::KillRabbit],
        1 => vec![Fault::FreezeRabbit, Fault::StopRabbit],
        _ => vec![Fault::KillRabbit, Fault::FreezeRabbit],
    });
    faults
}

/// Returns the cards that a plan plays before chance decides: of the gate those that fall to this seed, so that seeds that
/// follow each other meet nearly every kind; of a long run all. The last comes first, and links come last.
fn due(rng: &mut Rng, wish: &Wish) -> Vec<Card> {
    if !wish.only.is_empty() {
        return Vec::new();
    }
    let always: Vec<_> = (0..SEEDS).flat_map(always).map(|fault| fault.name()).collect();
    let mut cards: Vec<_> = Card::all()
        .map(|(_, card)| card)
        .filter(|card| !always.contains(&card.fault(&mut Rng::with_seed(0)).name()))
        .collect();
    if wish.profile == Profile::Gate {
        let mut place = 0;
        cards.retain(|_| {
            place += 1;
            place % SEEDS == wish.seed % SEEDS
        });
    }
    rng.shuffle(&mut cards);
    cards.sort_by_key(|card| !matches!(card, Card::Link(..)));
    cards
}

fn pick(rng: &mut Rng, values: &[&str]) -> String {
    values[rng.usize(..values.len())].to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn wish(seed: u64) -> Wish {
        Wish {
            seed,
            profile: Profile::Gate,
            only: Vec::new(),
            duration: None,
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_plan_and_another_seed_another() {
        let plan = Plan::of(&wish(7)).unwrap();
        assert_eq!(plan, Plan::of(&wish(7)).unwrap());
        assert_eq!(plan.hash().unwrap(), Plan::of(&wish(7)).unwrap().hash().unwrap());
        assert_ne!(plan.hash().unwrap(), Plan::of(&wish(8)).unwrap().hash().unwrap());
    }

    #[test]
    fn a_plan_comes_back_from_its_file_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plan.json");
        for seed in 0..20 {
            let plan = Plan::of(&wish(seed)).unwrap();
            plan.write(&path).unwrap();
            assert_eq!(Plan::read(&path).unwrap(), plan);
        }
    }

    #[test]
    fn another_layout_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plan.json");
        let plan = Plan {
            version: VERSION + 1,
            ..Plan::of(&wish(1)).unwrap()
        };
        plan.write(&path).unwrap();
        assert!(Plan::read(&path).unwrap_err().to_string().contains("layout"));
    }

    #[test]
    fn no_more_than_three_faults_overlap_and_none_in_the_way_of_another() {
        for seed in 0..200 {
            for episode in Plan::of(&wish(seed)).unwrap().episodes {
                let faults: Vec<_> = episode.injections.iter().map(|i| &i.fault).collect();
                assert!((1..=MOST_AT_ONCE).contains(&faults.len()), "{faults:?}");
                for (place, fault) in faults.iter().enumerate() {
                    for other in &faults[..place] {
                        assert!(fits(fault, other), "{fault} and {other}");
                    }
                }
            }
        }
    }

    #[test]
    fn three_seeds_of_the_gate_hold_sixty_injections_within_their_time() {
        for seed in 0..50 {
            let plans: Vec<_> = (seed..seed + 3)
                .map(|seed| Plan::of(&wish(seed)).unwrap())
                .collect();
            let injections: usize = plans.iter().map(|plan| plan.injections().count()).sum();
            assert!(injections >= 66, "{injections} from seed {seed}");
            assert!(plans.iter().all(|plan| plan.length() < 135_000));
        }
    }

    #[test]
    fn three_seeds_of_the_gate_meet_most_kinds_every_fault_of_the_database_and_every_size_of_packets() {
        for seed in 0..50 {
            let plans: Vec<_> = (seed..seed + 3)
                .map(|seed| Plan::of(&wish(seed)).unwrap())
                .collect();
            let met = kinds_of(&plans);
            assert!(met.len() >= 45, "{} kinds from seed {seed}", met.len());
            for (_, card) in Card::all().filter(|(_, card)| !matches!(card, Card::Link(..))) {
                let name = card.fault(&mut Rng::with_seed(0)).name();
                assert!(met.contains(&name), "{name} is not met from seed {seed}");
            }
            for size in PACKETS {
                let of_size = plans.iter().filter(|plan| packets(&plan.setup) == size);
                assert_eq!(of_size.count(), 1, "{size} from seed {seed}");
            }
        }
    }

    #[test]
    fn a_spool_meets_a_broker_that_is_killed_and_one_that_hangs() {
        for seed in (0..50).filter(|seed| seed % SEEDS == 2) {
            let plan = Plan::of(&wish(seed)).unwrap();
            assert!(plan.setup.spool);
            let met = kinds_of(&[plan]);
            assert!(
                met.contains("kill-rabbit") && met.contains("freeze-rabbit"),
                "{met:?}"
            );
        }
    }

    #[test]
    fn a_long_run_meets_every_kind_and_sets_the_programs_up_anew() {
        for seed in 0..10 {
            let plan = Plan::of(&Wish {
                profile: Profile::Long,
                ..wish(seed)
            });
            let plan = plan.unwrap();
            let setups: Vec<_> = plan
                .episodes
                .iter()
                .filter_map(|episode| episode.setup.as_ref())
                .chain([&plan.setup])
                .collect();
            for size in PACKETS {
                assert!(setups.iter().any(|setup| packets(setup) == size), "{size}");
            }
            assert!(setups.iter().any(|setup| setup.spool) && setups.iter().any(|setup| !setup.spool));
            assert_eq!(kinds_of(&[plan]).len(), Card::all().count());
        }
    }

    fn packets(setup: &Setup) -> &str {
        let packets = |(name, _): &&(String, String)| name.ends_with("PACKET_MAX_MESSAGES");
        setup
            .ingest
            .iter()
            .find(packets)
            .map_or("", |(_, value)| value.as_str())
    }

    fn kinds_of(plans: &[Plan]) -> BTreeSet<String> {
        plans
            .iter()
            .flat_map(|plan| plan.injections().map(|i| i.fault.name()).collect::<Vec<_>>())
            .collect()
    }

    #[test]
    fn a_long_run_holds_three_hundred_injections() {
        for seed in 0..20 {
            let plan = Plan::of(&Wish {
                profile: Profile::Long,
                ..wish(seed)
            });
            let injections = plan.unwrap().injections().count();
            assert!(injections >= 310, "{injections} of seed {seed}");
        }
    }

    #[test]
    fn of_three_seeds_one_has_a_spool() {
        for seed in 0..9 {
            let plans = (seed..seed + 3).map(|seed| Plan::of(&wish(seed)).unwrap());
            assert_eq!(plans.filter(|plan| plan.setup.spool).count(), 1);
        }
    }

    #[test]
    fn many_seeds_meet_every_kind_and_one_seed_does_not() {
        let plans: Vec<_> = (0..100).map(|seed| Plan::of(&wish(seed)).unwrap()).collect();
        // The list of names is the list of cards.
        assert_eq!(kinds_of(&plans), crate::fault::kinds().collect());
        assert!(kinds_of(&plans[..1]).len() < CARDS.len());
        let three = kinds_of(&plans[..3]);
        for scarce in ["kill-rabbit", "freeze-rabbit", "stop-rabbit", "link-publish-cut"] {
            assert!(
                three.contains(scarce),
                "{scarce} is not in three seeds: {three:?}"
            );
        }
    }

    #[test]
    fn only_what_is_asked_for_is_planned() {
        let plan = Plan::of(&Wish {
            only: vec!["kill-".to_owned(), "link-publish-cut".to_owned()],
            ..wish(3)
        })
        .unwrap();
        for injection in plan.injections() {
            let name = injection.fault.name();
            assert!(
                name.starts_with("kill-") || name.starts_with("link-publish-cut"),
                "{name}"
            );
        }
        let nothing = Wish {
            only: vec!["earthquake".to_owned()],
            ..wish(3)
        };
        assert!(Plan::of(&nothing).is_err());
    }
}
