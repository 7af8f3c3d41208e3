use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use warren_process::settings::{self, CheckSettings, Loaded, SettingsErrors, Sources};
use warren_process::telemetry::{LogFormat, TelemetryConfig};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Program {
    http: Http,
    amqp: Amqp,
    telemetry: TelemetryConfig,
    retention_days: Option<u16>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Http {
    listen: SocketAddr,
    max_connections: u16,
    idle: u64,
    body_limit: ByteSize,
    #[serde(with = "humantime_serde")]
    timeout: Duration,
    share: f64,
    compress: bool,
    ca_file: Option<PathBuf>,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            max_connections: 2000,
            idle: 1,
            body_limit: ByteSize::kib(256),
            timeout: Duration::from_secs(5),
            share: 0.5,
            compress: true,
            ca_file: None,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Amqp {
    url: String,
    password: String,
    prefix: String,
    tags: Vec<String>,
    limits: BTreeMap<String, u8>,
}

impl Default for Amqp {
    fn default() -> Self {
        Self {
            url: "amqp://guest:guest@127.0.0.1:5672/%2f".to_owned(),
            password: String::new(),
            prefix: "warren".to_owned(),
            tags: Vec::new(),
            limits: BTreeMap::new(),
        }
    }
}

impl CheckSettings for Program {
    fn problems(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        if !self.amqp.url.starts_with("amqp") {
            problems.push((
                "url",
                format!("{} does not begin with amqp:// or amqps://", self.amqp.url),
            ));
        }
        if self.amqp.prefix.is_empty() {
            problems.push(("prefix", "must not be empty".to_owned()));
        }
        settings::within("amqp", problems)
            .chain(settings::within("telemetry", self.telemetry.problems()))
            .collect()
    }
}

/// A configuration file that exists, so that no `warren.toml` of the working directory plays a part.
struct Given {
    directory: tempfile::TempDir,
    text: &'static str,
}

fn file(text: &'static str) -> Given {
    Given {
        directory: tempfile::tempdir().unwrap(),
        text,
    }
}

impl Given {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name).display().to_string()
    }

    fn sources(&self, environment: &[(&str, &str)]) -> Sources {
        let path = self.write("warren.toml", self.text);
        Sources::of(Some(path.into()), environment.iter().copied())
    }

    fn load(&self, environment: &[(&str, &str)]) -> Result<Loaded<Program>, SettingsErrors> {
        settings::load(&self.sources(environment))
    }

    /// The problems as an operator reads them, with the directory taken out.
    fn problems(&self, environment: &[(&str, &str)]) -> Vec<String> {
        self.lines(self.load(environment).unwrap_err())
    }

    fn lines(&self, errors: SettingsErrors) -> Vec<String> {
        let directory = format!("{}/", self.directory.path().display());
        errors
            .problems()
            .iter()
            .map(|problem| problem.to_string().replace(&directory, ""))
            .collect()
    }
}

#[test]
fn later_sources_win_and_every_value_knows_its_origin() {
    let given =
        file("[http]\nlisten = \"127.0.0.1:1\"\nmax_connections = 5\n[amqp]\nprefix = \"from-file\"\n");
    let sources = given
        .sources(&[
            ("WARREN_HTTP__LISTEN", "127.0.0.1:2"),
            ("WARREN_AMQP__PREFIX", "from-env"),
            ("PATH", "/bin"),
        ])
        .flag("--set", "amqp.prefix", "from-flag");
    let loaded: Loaded<Program> = settings::load(&sources).unwrap();
    assert_eq!(loaded.settings.http.listen.port(), 2);
    assert_eq!(loaded.settings.http.max_connections, 5);
    assert_eq!(loaded.settings.amqp.prefix, "from-flag");

    let file = given.path("warren.toml").display().to_string();
    let origin = |key: &str| {
        &loaded
            .effective()
            .iter()
            .find(|row| row.key == key)
            .unwrap()
            .origin
    };
    assert_eq!(origin("http.listen"), "environment variable WARREN_HTTP__LISTEN");
    assert_eq!(*origin("http.max_connections"), format!("{file}:3"));
    assert_eq!(origin("amqp.prefix"), "flag --set amqp.prefix");
    assert_eq!(origin("http.timeout"), "default");
}

#[test]
fn every_kind_of_value_can_be_given_as_text() {
    let loaded = file("")
        .load(&[
            ("WARREN_HTTP__MAX_CONNECTIONS", "65535"),
            ("WARREN_HTTP__IDLE", "18446744073709551615"),
            ("WARREN_HTTP__BODY_LIMIT", "20MiB"),
            ("WARREN_HTTP__TIMEOUT", "1m 30s"),
            ("WARREN_HTTP__SHARE", "0.25"),
            ("WARREN_HTTP__COMPRESS", "off"),
            ("WARREN_HTTP__CA_FILE", "/etc/ca.pem"),
            ("WARREN_AMQP__TAGS", "a, b,c"),
            ("WARREN_TELEMETRY__FORMAT", "json"),
            ("WARREN_RETENTION_DAYS", "30"),
        ])
        .unwrap()
        .settings;
    assert_eq!(loaded.http.max_connections, u16::MAX);
    assert_eq!(loaded.http.idle, u64::MAX);
    assert_eq!(loaded.http.body_limit, ByteSize::mib(20));
    assert_eq!(loaded.http.timeout, Duration::from_secs(90));
    assert_eq!(loaded.http.share, 0.25);
    assert!(!loaded.http.compress);
    assert_eq!(
        loaded.http.ca_file,
        Some("/etc/ca.pem".into()),
        "a setting whose own name ends in _file"
    );
    assert_eq!(loaded.amqp.tags, ["a", "b", "c"]);
    assert_eq!(loaded.telemetry.format, LogFormat::Json);
    assert_eq!(loaded.retention_days, Some(30));
}

#[test]
fn an_empty_value_unsets_what_may_be_unset() {
    let loaded = file("retention_days = 30")
        .load(&[("WARREN_RETENTION_DAYS", "")])
        .unwrap();
    assert_eq!(loaded.settings.retention_days, None);
}

#[test]
fn a_password_of_digits_stays_as_it_is() {
    let given = file("");
    let loaded = given.load(&[("WARREN_AMQP__PASSWORD", "0123")]).unwrap();
    assert_eq!(loaded.settings.amqp.password, "0123");
    let secret = given.write("secret", "0123\n");
    let loaded = given.load(&[("WARREN_AMQP__PASSWORD_FILE", &secret)]).unwrap();
    assert_eq!(loaded.settings.amqp.password, "0123");
    let sources = given.sources(&[]).flag("--set", "amqp.password", "1e3");
    assert_eq!(
        settings::load::<Program>(&sources)
            .unwrap()
            .settings
            .amqp
            .password,
        "1e3"
    );
}

#[test]
fn exactly_one_newline_is_cut_from_a_secret_file() {
    let given = file("");
    for (text, read) in [
        ("a b\n", "a b"),
        ("a\r\n", "a"),
        ("a\n\n", "a\n"),
        (" a", " a"),
        ("", ""),
    ] {
        let path = given.write("secret", text);
        let loaded = given.load(&[("WARREN_AMQP__PASSWORD_FILE", &path)]).unwrap();
        assert_eq!(loaded.settings.amqp.password, read);
        let row = loaded
            .effective()
            .iter()
            .find(|row| row.key == "amqp.password")
            .unwrap();
        assert!(row.origin.contains("WARREN_AMQP__PASSWORD_FILE"), "{row:?}");
    }
}

#[test]
fn a_variable_beside_its_file_twin_is_refused() {
    let given = file("");
    let path = given.write("secret", "b");
    let problems = given.problems(&[
        ("WARREN_AMQP__PASSWORD", "a"),
        ("WARREN_AMQP__PASSWORD_FILE", &path),
    ]);
    assert_eq!(
        problems,
        [
            "amqp.password (file secret named by the environment variable WARREN_AMQP__PASSWORD_FILE): is given twice, \
          also by the environment variable WARREN_AMQP__PASSWORD; keep one of them"
        ]
    );
}

#[test]
fn a_secret_file_that_cannot_be_read_is_named() {
    let problems = file("").problems(&[("WARREN_AMQP__URL_FILE", "/nowhere/secret")]);
    assert_eq!(
        problems,
        [
            "amqp.url (environment variable WARREN_AMQP__URL_FILE): names the file /nowhere/secret, which cannot be read: \
          No such file or directory (os error 2)"
        ]
    );
}

#[test]
fn a_url_without_a_scheme_is_shown_nowhere() {
    const WRONG: &str = "app:s3cret@rabbit:5672";
    let given = file("");
    let secret = given.write("secret", &format!("{WRONG}\n"));
    for (name, value) in [
        ("WARREN_AMQP__URL", WRONG),
        ("WARREN_AMQP__URL_FILE", &secret),
        ("WARREN_AMQP__URL_FILE", WRONG),
    ] {
        let problems = given.problems(&[(name, value)]).join("\n");
        assert!(
            problems.contains("***") && !problems.contains("s3cret"),
            "{problems}"
        );
    }
}

#[test]
fn all_problems_are_told_at_once_each_with_its_place_and_remedy() {
    let given = file(
        "[http]\nlisten = \"localhost\"\nmax_connections = 70000\nbody_limit = \"20 parsecs\"\ntimeout = 5\n\
         share = \"much\"\nlisten_backlog = 7\n[amqp]\nprefix = \"\"\nlimits = { a = 256 }\n",
    );
    let problems = given.problems(&[
        ("WARREN_HTTP__COMPRESS", "perhaps"),
        ("WARREN_HTTP__IDLE", "-1"),
        ("WARREN_TELEMETRY__FORMAT", "xml"),
        ("WARREN_RETENTION_DAYS", "1.5"),
    ]);
    assert_eq!(
        problems,
        [
            "amqp.limits.a = \"256\" (warren.toml:10): expected a whole number from 0 to 255",
            "amqp.prefix = \"\" (warren.toml:9): must not be empty",
            "http.body_limit = \"20 parsecs\" (warren.toml:4): expected a size, such as 64KiB or 20MiB",
            "http.compress = \"perhaps\" (environment variable WARREN_HTTP__COMPRESS): expected true or false",
            "http.idle = \"-1\" (environment variable WARREN_HTTP__IDLE): expected a whole number from 0 to \
             18446744073709551615",
            "http.listen = \"localhost\" (warren.toml:2): expected an IP address and a port, such as 127.0.0.1:8080 \
             or [::]:8080",
            "http.listen_backlog = \"***\" (warren.toml:7): no such setting; docs/configuration.md lists them all",
            "http.max_connections = \"70000\" (warren.toml:3): expected a whole number from 0 to 65535",
            "http.share = \"much\" (warren.toml:6): expected a number",
            "http.timeout = \"5\" (warren.toml:5): expected a duration with its unit, such as 500ms, 5s or 2h",
            "retention_days = \"1.5\" (environment variable WARREN_RETENTION_DAYS): expected a whole number from 0 to \
             65535",
            "telemetry.format = \"xml\" (environment variable WARREN_TELEMETRY__FORMAT): expected one of auto, text, \
             json",
        ]
    );
}

#[test]
fn the_whole_report_counts_its_problems_and_says_that_nothing_runs() {
    let errors = file("[http]\nlistne = 1\nidle = true\n").load(&[]).unwrap_err();
    let text = errors.to_string();
    assert!(
        text.starts_with("the configuration has 2 problems, nothing was started:\n  http.idle"),
        "{text}"
    );
    assert_eq!(errors.to_json()["problems"][1]["key"], "http.listne");
}

#[test]
fn obliging_conversions_are_refused() {
    let given = file("[http]\nidle = true\nmax_connections = 1.7\ncompress = 1\n[amqp]\nurl = [\"a\"]\n");
    let problems = given.problems(&[]);
    assert_eq!(problems.len(), 4, "{problems:#?}");
}

#[test]
fn a_misspelt_key_is_told_the_right_one_as_its_source_spells_it() {
    let given = file("[http]\nlistne = \"127.0.0.1:1\"\n");
    let sources = given
        .sources(&[
            ("WARREN_HTTP_LISTEN", "127.0.0.1:2"),
            ("WARREN_AMQP__PREFIXX", "x"),
            ("WARREN_BANANA", "1"),
        ])
        .flag("--set", "amqp.prefx", "y");
    let errors = settings::load::<Program>(&sources).unwrap_err();
    assert_eq!(
        given.lines(errors),
        [
            "amqp.prefixx = \"***\" (environment variable WARREN_AMQP__PREFIXX): no such setting; did you mean \
             WARREN_AMQP__PREFIX?",
            "amqp.prefx = \"***\" (flag --set amqp.prefx): no such setting; did you mean amqp.prefix?",
            "banana = \"***\" (environment variable WARREN_BANANA): no such setting; docs/configuration.md lists them \
             all",
            "http.listne = \"***\" (warren.toml:2): no such setting; did you mean http.listen?",
            "http_listen = \"***\" (environment variable WARREN_HTTP_LISTEN): no such setting; did you mean \
             WARREN_HTTP__LISTEN?",
        ]
    );
}

#[test]
fn what_belongs_to_another_program_is_tolerated_where_programs_share_it() {
    let given = file("[postgres]\nurl = \"postgres://x\"\nnonsense = 1\n[worker]\nbatch = 5\n");
    given
        .load(&[
            ("WARREN_POSTGRES__URL", "x"),
            ("WARREN_POSTGRES__URL_FILE", "/nowhere"),
        ])
        .unwrap();

    let errors =
        settings::load::<Program>(&given.sources(&[]).flag("--set", "postgres.url", "x")).unwrap_err();
    assert_eq!(
        errors.problems()[0].problem,
        "`postgres` belongs to another program of Warren; this one does not read it"
    );

    let given = file("[postgers]\nurl = \"postgres://x\"\n");
    assert_eq!(
        given.problems(&[]).len(),
        1,
        "a section nobody knows is a mistake"
    );
}

#[test]
fn variables_that_others_set_under_our_prefix_are_let_be() {
    file("")
        .load(&[
            ("WARREN_TEST_AMQP_URL", "x"),
            ("WARREN_CONFIG", "x"),
            ("WARREN_PORT", "tcp://10.0.0.1:80"),
            ("WARREN_SERVICE_HOST", "10.0.0.1"),
            ("WARREN_INGEST_SERVICE_PORT_HTTP", "80"),
            ("WARREN_PORT_80_TCP", "tcp://10.0.0.1:80"),
            ("WARREN_PORT_80_TCP_ADDR", "10.0.0.1"),
            ("WARREN_PORT_80_TCP_PROTO", "tcp"),
        ])
        .unwrap();
}

#[test]
fn secrets_are_masked_in_problems_and_in_the_table() {
    let given = file("");
    let problems = given.problems(&[
        ("WARREN_AMQP__URL", "http://app:hunter2@rabbit/%2f"),
        ("WARREN_AMQP__PASWORD", "hunter2"),
    ]);
    let text = problems.join("\n");
    assert!(!text.contains("hunter2"), "{text}");
    assert!(
        text.contains("http://app:***@rabbit/%2f does not begin with amqp://"),
        "{text}"
    );

    let environment = [
        ("WARREN_AMQP__URL", "amqp://app:hunter2@rabbit"),
        ("WARREN_AMQP__PASSWORD", "hunter2"),
    ];
    let loaded = given.load(&environment).unwrap();
    let table = loaded.table();
    assert!(
        !table.contains("hunter2") && !loaded.to_json().to_string().contains("hunter2"),
        "{table}"
    );
    assert!(table.contains("amqp://app:***@rabbit"), "{table}");
    assert_eq!(loaded.settings.amqp.password, "hunter2");
}

#[test]
fn a_section_given_as_a_value_is_told_what_it_holds() {
    let problems = file("http = 5\n").problems(&[("WARREN_HTTP__LISTEN", "127.0.0.1:2")]);
    assert_eq!(
        problems,
        [
            "http = \"5\" (warren.toml:1): is a section, not a value; it holds body_limit, ca_file, compress, idle, \
          listen, max_connections, share, timeout"
        ]
    );
    let problems = file("[http.listen]\nport = 5\n").problems(&[]);
    assert_eq!(problems, ["http.listen (warren.toml:2): expected text"]);
}

#[test]
fn a_file_that_is_not_toml_is_named_with_its_line_and_without_its_text() {
    let given = file("[amqp]\npassword = \"hunter2\n");
    let problems = given.problems(&[]);
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0].starts_with("configuration file (warren.toml:2): is not TOML: "),
        "{problems:?}"
    );
    assert!(!problems[0].contains("hunter2"), "{problems:?}");
}

#[test]
fn a_named_file_must_exist_and_the_usual_one_need_not() {
    let none: [(&str, &str); 0] = [];
    let errors = settings::load::<Program>(&Sources::of(Some("/nowhere/w.toml".into()), none)).unwrap_err();
    assert_eq!(
        errors.problems()[0].to_string(),
        "configuration file (/nowhere/w.toml:1): cannot be read: No such file or directory (os error 2)"
    );
    let loaded = settings::load::<Program>(&Sources::of(None, none)).unwrap();
    assert_eq!(loaded.file, None);
}

#[test]
fn a_number_beyond_every_type_is_refused_with_its_range() {
    let problems = file("[http]\nmax_connections = 99999999999999999999\n").problems(&[]);
    assert_eq!(
        problems,
        [
            "http.max_connections = \"99999999999999999999\" (warren.toml:2): expected a whole number from 0 to 65535"
        ]
    );
}

#[test]
fn a_value_that_is_not_utf_8_is_refused_by_name() {
    let given = file("");
    let value = OsString::from_vec(vec![0xff, 0xfe]);
    let path = given.write("warren.toml", "");
    let sources = Sources::of(Some(path.into()), [("WARREN_AMQP__PREFIX", value)]);
    let errors = settings::load::<Program>(&sources).unwrap_err();
    assert_eq!(
        errors.problems()[0].to_string(),
        "amqp.prefix (environment variable WARREN_AMQP__PREFIX): is not UTF-8; give the value in UTF-8"
    );
}

#[test]
fn the_defaults_are_listed_as_the_documentation_writes_them() {
    let list = settings::flatten(&Program::default()).unwrap();
    let of = |key: &str| list.iter().find(|(known, _)| known == key).unwrap().1.clone();
    assert_eq!(of("http.body_limit"), "256KiB");
    assert_eq!(of("http.timeout"), "5s");
    assert_eq!(of("http.listen"), "127.0.0.1:8080");
    assert_eq!(of("retention_days"), "");
    assert_eq!(of("telemetry.format"), "auto");
}
