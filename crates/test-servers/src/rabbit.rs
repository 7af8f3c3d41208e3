//! A RabbitMQ of one's own.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::Signal;

use crate::group::{Group, Home, free_port, wait_until_ready};
use crate::{amqp, programs};

/// A start was measured to take 14 to 45 s on a machine of two loaded cores.
const START: Duration = Duration::from_secs(180);

/// Reads an Erlang expression a line, has the node evaluate it, and prints `{ok,Value}` or `{error,Why}` a line.
const EVALUATOR: &str = r#"
    Node = list_to_atom(os:getenv("WARREN_NODE")),
    Evaluate = fun(Line) ->
        {ok, Tokens, _} = erl_scan:string(Line),
        {ok, Expressions} = erl_parse:parse_exprs(Tokens),
        case rpc:call(Node, erl_eval, exprs, [Expressions, []], 60000) of
            {value, Value, _} -> {ok, Value};
            Failed -> {error, Failed}
        end
    end,
    Loop = fun Loop() ->
        case io:get_line("") of
            eof -> halt(0);
            Line ->
                Result = try Evaluate(Line) catch Class:Reason -> {error, {Class, Reason}} end,
                io:format("~0tp~n", [Result]),
                Loop()
        end
    end,
    Loop()."#;

/// A private RabbitMQ node on free ports of the loopback, with user `guest` and without plugins.
///
/// Synchronous throughout: from a runtime, call it through `spawn_blocking`. Dropped, it is killed and its data is
/// removed; if this process is killed instead, a guardian does the same.
#[derive(Debug)]
pub struct PrivateRabbit {
    server: Option<Group>,
    // The node's name service, of its own too: one shared with other nodes would be stopped with them.
    _epmd: Group,
    ports: Ports,
    program: PathBuf,
    // Last, so that it is removed after the server has stopped.
    home: Home,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    amqp: u16,
    distribution: u16,
    epmd: u16,
}

impl PrivateRabbit {
    /// Returns whether the programs are installed.
    #[must_use]
    pub fn is_installed() -> bool {
        ["rabbitmq-server", "erl", "epmd"]
            .iter()
            .all(|name| programs::find(name, programs::RABBITMQ).is_some())
    }

    /// Starts a node and waits until it takes connections; takes between ten seconds and a minute.
    ///
    /// # Errors
    /// When the programs are not installed, or fail: their last lines are part of the error.
    pub fn start() -> Result<Self> {
        let program = programs::find("rabbitmq-server", programs::RABBITMQ)
            .context("rabbitmq-server is not installed")?;
        let epmd =
            programs::find("epmd", &["/usr/lib/erlang/bin"]).context("epmd (Erlang) is not installed")?;
        let home = Home::new(&["rabbitmq", "nobody"])?;
        let ports = Ports {
            amqp: free_port()?,
            distribution: free_port()?,
            epmd: free_port()?,
        };
        home.write("enabled_plugins", "[].\n")?;
        // A test's disk is rarely large, and an alarm would look like a hang.
        home.write(
            "rabbitmq.conf",
            &format!(
                "listeners.tcp.1 = 127.0.0.1:{}\ndisk_free_limit.absolute = 50MB\n",
                ports.amqp
            ),
        )?;
        // In the foreground, or it would make itself a daemon that nobody stops.
        let epmd = Group::start(
            home.command(&epmd)
                .args(["-port", &ports.epmd.to_string(), "-address", "127.0.0.1"]),
            &home.path().join("epmd.log"),
            home.path(),
        )?;
        let mut node = Self {
            server: None,
            _epmd: epmd,
            ports,
            program,
            home,
        };
        node.start_again()?;
        Ok(node)
    }

    /// Returns `amqp://…` of the vhost `/`, as its administrator; the same for every restart.
    #[must_use]
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.ports.amqp)
    }

    /// Returns a command that evaluates Erlang expressions in the node: one a line of its input, `{ok,Value}` or
    /// `{error,Why}` a line of its output, until the input ends.
    ///
    /// `rabbitmqctl` does the same and starts an Erlang of its own each time, which takes a second and a half; this one
    /// answers within milliseconds, and lives through restarts of the node.
    ///
    /// # Errors
    /// When Erlang is not installed.
    pub fn evaluator(&self) -> Result<Command> {
        let erl = programs::find("erl", programs::RABBITMQ).context("erl (Erlang) is not installed")?;
        let mut command = self.home.command(&erl);
        command
            .env("ERL_EPMD_PORT", self.ports.epmd.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("WARREN_NODE", self.node())
            .args(["-noshell", "-hidden", "+S", "1:1", "-sname"])
            .arg(format!("torture-{}@localhost", self.ports.amqp))
            .args(["-kernel", "inet_dist_use_interface", "{127,0,0,1}", "-eval"])
            .arg(EVALUATOR.trim())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // Out of reach of the terminal's Ctrl-C.
            .process_group(0);
        Ok(command)
    }

    fn node(&self) -> String {
        format!("warren-{}@localhost", self.ports.amqp)
    }

    /// Returns the address it takes connections at.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports.amqp).into()
    }

    /// Returns the file with everything it logged, over all its starts.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.home.path().join("rabbitmq.log")
    }

    /// Returns the process id of the node's group while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Group::id)
    }

    /// Stops all of the node's processes in the middle of whatever they do (SIGSTOP), as a machine that hangs would.
    ///
    /// # Errors
    /// When it does not run.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets a frozen node go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        self.server
            .as_ref()
            .context("the node does not run")?
            .signal(signal)
    }

    /// Kills the node as a power cut would, but for what the operating system has not written yet.
    pub fn kill(&mut self) {
        drop(self.server.take());
    }

    /// Stops the node in good order.
    pub fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop(Signal::TERM, Duration::from_secs(60));
        }
    }

    /// Starts a stopped node on its old data and port, and waits until it takes connections.
    ///
    /// # Errors
    /// When it does not become ready within three minutes.
    pub fn start_again(&mut self) -> Result<()> {
        self.stop();
        let at = |name: &str| self.home.path().join(name);
        let mut command = self.home.command(&self.program);
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("RABBITMQ_")) {
                command.env_remove(name);
            }
        }
        command
            .env("ERL_EPMD_PORT", self.ports.epmd.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODENAME", self.node())
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.ports.amqp.to_string())
            .env("RABBITMQ_DIST_PORT", self.ports.distribution.to_string())
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_CONFIG_FILE", at("rabbitmq.conf"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", at("advanced.config"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", at("enabled_plugins"))
            .env("RABBITMQ_MNESIA_BASE", at("mnesia"))
            .env("RABBITMQ_LOG_BASE", at("log"))
            .env("RABBITMQ_LOGS", "-")
            .env("RABBITMQ_PID_FILE", at("node.pid"))
            .env("RABBITMQ_GENERATED_CONFIG_DIR", at("config"));
        let log = self.log();
        let mut server = Group::start(&mut command, &log, self.home.path())?;
        let url = self.url();
        wait_until_ready(&mut server, "rabbitmq-server", &log, START, || amqp::probe(&url))?;
        self.server = Some(server);
        Ok(())
    }

    /// Stops the node in good order and starts it again.
    ///
    /// # Errors
    /// When it does not become ready within three minutes.
    pub fn restart(&mut self) -> Result<()> {
        self.start_again()
    }
}
