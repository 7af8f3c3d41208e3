//! What is done to RabbitMQ and asked of it, past the product: Erlang expressions, evaluated in the node.

use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use warren_test_servers::PrivateRabbit;

/// How long one expression may take; starting the broker's applications is the longest.
const DEADLINE: Duration = Duration::from_secs(60);

/// The user of the programs; the harness itself is `guest`.
pub const USER: &str = "warren";

/// Who the broker's log says did it.
const ACTOR: &str = "<<\"torture\">>";

/// A private RabbitMQ, and a node that evaluates expressions in it.
#[derive(Debug)]
pub struct Broker {
    node: Arc<Mutex<PrivateRabbit>>,
    evaluator: tokio::sync::Mutex<Option<Evaluator>>,
}

#[derive(Debug)]
struct Evaluator {
    _child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Broker {
    /// Starts one.
    ///
    /// # Errors
    /// RabbitMQ is not installed, or does not start.
    pub async fn start() -> Result<Self> {
        let node = spawn_blocking(PrivateRabbit::start).await??;
        Ok(Self {
            node: Arc::new(Mutex::new(node)),
            evaluator: tokio::sync::Mutex::new(None),
        })
    }

    /// Does something to the node, on a thread that may block.
    ///
    /// # Errors
    /// As `act`.
    pub async fn act<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut PrivateRabbit) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let node = Arc::clone(&self.node);
        spawn_blocking(move || act(&mut node.lock().unwrap_or_else(PoisonError::into_inner))).await?
    }

    /// Evaluates an expression in the node and returns its value as Erlang writes it.
    ///
    /// # Errors
    /// It failed, or the node does not answer.
    pub async fn evaluate(&self, expression: &str) -> Result<String> {
        let mut place = self.evaluator.lock().await;
        let mut evaluator = match place.take() {
            Some(evaluator) => evaluator,
            None => self.evaluator().await?,
        };
        let line = format!("{}.\n", expression.replace('\n', " "));
        let answer = timeout(DEADLINE, async {
            evaluator.input.write_all(line.as_bytes()).await?;
            evaluator.input.flush().await?;
            evaluator.output.next_line().await
        });
        // Left out of its place on an error: the next answer would be to this question.
        let answer = answer
            .await
            .with_context(|| format!("RabbitMQ did not answer within {DEADLINE:?}: {expression}"))??
            .context("the node that evaluates has ended")?;
        *place = Some(evaluator);
        match answer
            .strip_prefix("{ok,")
            .and_then(|value| value.strip_suffix('}'))
        {
            Some(value) => Ok(value.to_owned()),
            None => bail!("RabbitMQ answered {answer} to {expression}"),
        }
    }

    async fn evaluator(&self) -> Result<Evaluator> {
        let command = self.act(|node| node.evaluator()).await?;
        let mut child = Command::from(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start erl")?;
        Ok(Evaluator {
            input: child.stdin.take().context("no input")?,
            output: BufReader::new(child.stdout.take().context("no output")?).lines(),
            _child: child,
        })
    }

    /// Does something and requires that the broker says `ok`.
    ///
    /// # Errors
    /// It says something else.
    pub async fn order(&self, expression: &str) -> Result<()> {
        let answer = self.evaluate(expression).await?;
        ensure!(answer == "ok", "RabbitMQ answered {answer} to {expression}");
        Ok(())
    }

    /// Returns the release of the broker.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn release(&self) -> Result<String> {
        let broker = self.evaluate("rabbit_misc:version()").await?;
        let erlang = self.evaluate("erlang:system_info(otp_release)").await?;
        Ok(format!(
            "RabbitMQ {}, Erlang {}",
            broker.trim_matches('"'),
            erlang.trim_matches('"')
        ))
    }

    /// Makes a virtual host, in which the programs' user may do everything.
    ///
    /// # Errors
    /// The broker refuses.
    pub async fn add_vhost(&self, vhost: &str, password: &str) -> Result<()> {
        self.order(&format!("rabbit_vhost:add(<<\"{vhost}\">>, {ACTOR})"))
            .await?;
        self.evaluate(&format!(
            "rabbit_auth_backend_internal:add_user(<<\"{USER}\">>, <<\"{password}\">>, {ACTOR})"
        ))
        .await
        // The node lives longer than a seed: the user may be there, with another password.
        .ok();
        self.evaluate(&format!(
            "rabbit_auth_backend_internal:change_password(<<\"{USER}\">>, <<\"{password}\">>, {ACTOR})"
        ))
        .await?;
        self.permit("guest", vhost).await?;
        self.permit(USER, vhost).await
    }

    /// Gives a user every right in a virtual host.
    ///
    /// # Errors
    /// The broker refuses.
    pub async fn permit(&self, user: &str, vhost: &str) -> Result<()> {
        self.order(&format!(
            "rabbit_auth_backend_internal:set_permissions(<<\"{user}\">>, <<\"{vhost}\">>, <<\".*\">>, <<\".*\">>, <<\".*\">>, {ACTOR})"
        ))
        .await
    }

    /// Takes every right in a virtual host from the programs' user.
    ///
    /// # Errors
    /// The broker refuses.
    pub async fn revoke(&self, vhost: &str) -> Result<()> {
        self.order(&format!(
            "rabbit_auth_backend_internal:clear_permissions(<<\"{USER}\">>, <<\"{vhost}\">>, {ACTOR})"
        ))
        .await
    }

    /// Closes the connections of the programs' user; returns how many there were.
    ///
    /// # Errors
    /// The broker does not answer.
    pub async fn close_connections(&self) -> Result<u64> {
        let closed = self
            .evaluate(&format!(
                "length([rabbit_networking:close_connection(Pid, \"torture\") || Pid <- rabbit_networking:connections(), \
                 [{{user, User}}] <- [rabbit_networking:connection_info(Pid, [user])], User =:= <<\"{USER}\">>])"
            ))
            .await?;
        closed.parse().with_context(|| format!("{closed} is no number"))
    }

    /// Takes every binding from a queue, but the default exchange's; returns how many there were.
    ///
    /// # Errors
    /// The broker does not answer.
    pub async fn delete_bindings(&self, vhost: &str, queue: &str) -> Result<u64> {
        let deleted = self
            .evaluate(&format!(
                "length([rabbit_binding:remove(Binding, {ACTOR}) || Binding <- \
                 rabbit_binding:list_for_destination(rabbit_misc:r(<<\"{vhost}\">>, queue, <<\"{queue}\">>)), \
                 element(4, element(2, Binding)) =/= <<>>])"
            ))
            .await?;
        deleted.parse().with_context(|| format!("{deleted} is no number"))
    }

    /// Lets a queue hold so many messages and no more.
    ///
    /// # Errors
    /// The broker refuses.
    pub async fn limit_queue(&self, vhost: &str, queue: &str, messages: u64) -> Result<()> {
        self.order(&format!(
            "rabbit_policy:set(<<\"{vhost}\">>, <<\"torture\">>, <<\"^{}$\">>, [{{<<\"max-length\">>, {messages}}}], 1, <<\"queues\">>, {ACTOR})",
            queue.replace('.', "[.]")
        ))
        .await
    }

    /// Ends that.
    ///
    /// # Errors
    /// The broker refuses.
    pub async fn unlimit_queue(&self, vhost: &str) -> Result<()> {
        self.order(&format!(
            "rabbit_policy:delete(<<\"{vhost}\">>, <<\"torture\">>, {ACTOR})"
        ))
        .await
    }

    /// Makes the broker believe that it has no memory left, or lets it see what it has.
    ///
    /// # Errors
    /// The broker refuses.
    pub async fn memory_alarm(&self, on: bool) -> Result<()> {
        let mark = if on { "0.00001" } else { "0.4" };
        self.order(&format!("vm_memory_monitor:set_vm_memory_high_watermark({mark})"))
            .await
    }

    /// Makes the broker believe that it has no disk left, or lets it see what it has.
    ///
    /// # Errors
    /// The broker refuses.
    pub async fn disk_alarm(&self, on: bool) -> Result<()> {
        let limit = if on { "1000000GB" } else { "50MB" };
        self.order(&format!("rabbit_disk_monitor:set_disk_free_limit(\"{limit}\")"))
            .await
    }

    /// Takes back every alarm, and lets the node run.
    ///
    /// # Errors
    /// The broker does not answer.
    pub async fn calm(&self) -> Result<()> {
        self.act(|node| match node.pid() {
            Some(_) => node.thaw(),
            None => node.start_again(),
        })
        .await?;
        self.order("rabbit:start()").await?;
        self.memory_alarm(false).await?;
        self.disk_alarm(false).await
    }

    /// Returns the alarms in force.
    ///
    /// # Errors
    /// The broker does not answer.
    pub async fn alarms(&self) -> Result<String> {
        self.evaluate("rabbit_alarm:get_alarms()").await
    }

    /// Returns everything the node has logged.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn log(&self) -> Result<String> {
        let path = self.act(|node| Ok(node.log())).await?;
        Ok(String::from_utf8_lossy(&tokio::fs::read(&path).await?).into_owned())
    }
}
