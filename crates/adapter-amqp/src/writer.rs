//! The one task that publishes: it owns the connection, the window and what waits.
//!
//! **Group commit.** Whatever waits when there is room in the window goes out at once, as one *round*, merged by
//! address into packets. A few rounds may be on their way; what arrives meanwhile waits and shares the next round's
//! packets. So a lone message never lingers, and packets grow with the load by themselves. The broker charges per
//! AMQP message and hardly per byte, so this is where the throughput comes from. A broker that confirms within a
//! millisecond would keep the rounds small all the same, and spend its time on them: so a round that several calls
//! have shared is followed by a short pause, as PostgreSQL's `commit_delay` with its `commit_siblings`.
//!
//! **What `Ok` of amqprs means.** `basic_publish` puts a frame into a queue of 8,192 and returns, also on a closed
//! channel, also while the broker is blocked. Nothing is taken for published before its confirm; the window is far
//! smaller than that queue; and a packet without its confirm in time costs the connection, because that is the only
//! sign amqprs leaves of a blocked or hung broker.
//!
//! **A lost connection** says nothing about what was on its way. It is published again under the same message ids,
//! as long as somebody waits for it; the store removes what came twice.

use std::collections::{HashSet, VecDeque};
use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use amqprs::channel::{BasicPublishArguments, ConfirmSelectArguments};
use tokio::select;
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use warren_domain::ports::{ConsumerGroup, PublishError};
#[cfg(feature = "planted-bugs")]
use warren_planted::{Bug, planted, planted_from_second_time};

use crate::backoff::{Backoff, until};
use crate::confirms::Confirms;
use crate::connection::{Connector, Event, Link};
use crate::error::{LinkError, Lost, cause};
use crate::metrics::PublishMetrics;
use crate::packing::{Address, Chunk, Packet, PacketLimits, pack};
use crate::status::{Status, chain};
use crate::topology::Topology;
use crate::window::{Room, Window, WindowLimits};

/// How often one packet is published at most. A packet that the broker answers by closing the connection must not
/// close it for everybody until its callers stop waiting.
const MAX_ATTEMPTS: u32 = 3;

/// How often the exchanges and queues are declared again though nothing seems wrong: a packet that only a group's
/// queue took is not returned, so a store queue that somebody deleted is not noticed otherwise.
const TOPOLOGY_CHECK: Duration = Duration::from_secs(5);

/// The least pause between declarations that unroutable packets ask for.
const TOPOLOGY_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause between declarations that fail.
const TOPOLOGY_PATIENCE: Duration = Duration::from_secs(30);

/// How many declarations may fail on one connection. RabbitMQ closes the channel of each, and amqprs never uses the
/// number of a channel again that it has not closed itself; it panics when all 2,047 are gone.
const TOPOLOGY_FAILURES: u32 = 1_000;

/// How long after connecting a refused packet is published again instead of failing: a quorum queue that somebody
/// else has declared a moment ago exists before it has a leader, and refuses everything until then.
const ELECTION: Duration = Duration::from_secs(2);

/// The first pause before a refused packet is published again; the pauses double with the age of the connection…
const ELECTION_PAUSE: Duration = Duration::from_millis(100);

/// …up to this.
const LONGEST_ELECTION_PAUSE: Duration = Duration::from_millis(500);

/// How many calls in one round show that more are to be expected, so that it is worth to let them gather.
const COMPANY: usize = 4;

/// The reply code of AMQP for a packet that the broker will never take: one above its `max_message_size`, say. RabbitMQ
/// closes the channel and does not say which packet it was.
const PRECONDITION_FAILED: u16 = 406;

/// The longest routing key or exchange name, in bytes; amqprs panics beyond.
const SHORT_STRING: usize = 255;

/// What the writing task works with.
pub(crate) struct Writing {
    pub(crate) connector: Connector,
    pub(crate) topology: Topology,
    pub(crate) packet: PacketLimits,
    pub(crate) window: WindowLimits,
    /// How long the next round waits after one that several calls have shared.
    pub(crate) round_pause: Duration,
    /// How long a packet may be without its confirm.
    pub(crate) confirm_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) backoff: Backoff,
    pub(crate) queue: mpsc::Receiver<Chunk>,
    pub(crate) status: Arc<Status>,
    pub(crate) closing: CancellationToken,
    pub(crate) metrics: PublishMetrics,
    /// Chunks taken from the queue that did not fit into a round yet.
    pub(crate) staged: VecDeque<Chunk>,
    /// Packets of a lost connection, to be published again.
    pub(crate) again: VecDeque<Packet>,
    /// One of them was refused, so they go one at a time until it is found.
    pub(crate) one_by_one: bool,
}

/// How the work on one connection ended.
enum End {
    /// Asked to close, and nothing is left to do.
    Drained,
    /// The connection is gone.
    Lost(Lost),
    /// Nothing was confirmed in time.
    Stalled,
}

type Declaring = Pin<Box<dyn Future<Output = Result<(), LinkError>> + Send>>;

/// What is on its way on one connection.
struct Flight {
    confirms: Confirms<Packet>,
    window: Window,
    /// When the next round may begin, if not at once.
    next_round_at: Option<Instant>,
    /// Since when the connection stands.
    born: Instant,
    /// Packets that were refused while the connection was young, and when to publish them again.
    refused: VecDeque<(Instant, Packet)>,
    /// Something was confirmed, so that the broker is known to work.
    proven: bool,
    /// Declares the topology again, when there is a reason to.
    declaring: Option<Declaring>,
    declare_at: Instant,
    /// The pauses between declarations that fail.
    declare_backoff: Backoff,
    /// How many of them have failed.
    failed_declarations: u32,
    /// Why the broker will never take one of the packets that are on their way.
    refusal: Option<String>,
}

impl Writing {
    /// Works until it is asked to close and nothing is left, or nobody waits for what is left.
    pub(crate) async fn run(mut self) {
        let mut failures = 0_u32;
        loop {
            let pointless = self.pointless();
            let opened = select! {
                opened = self.connector.open() => opened,
                () = pointless => break,
            };
            let connected = match opened {
                Ok(link) => {
                    let prepared = self.prepared(link).await;
                    if prepared.is_err() {
                        self.connector.next_address();
                    }
                    prepared
                }
                Err(error) => Err(error),
            };
            match connected {
                Ok(mut link) => {
                    failures = 0;
                    tracing::info!(endpoint = link.endpoint(), "publishes to RabbitMQ");
                    self.status.connected();
                    if let End::Drained = self.serve(&mut link).await {
                        link.close().await;
                        break;
                    }
                }
                Err(error) => {
                    failures = failures.wrapping_add(1);
                    let reason = chain(&error);
                    if self.status.failed(&reason) {
                        tracing::warn!(reason, "cannot publish to RabbitMQ; keeps trying");
                    }
                }
            }
            self.drop_expired();
            if failures.is_multiple_of(self.connector.addresses()) {
                let pause = self.backoff.pause();
                let pointless = self.pointless();
                select! {
                    () = sleep(pause) => {}
                    () = pointless => break,
                }
            }
        }
        self.status.away("the publisher was closed");
    }

    /// Waits for the moment when it makes no more sense to look for a connection: asked to close, and nobody waits.
    fn pointless(&mut self) -> impl Future<Output = ()> + 'static {
        self.drop_expired();
        let idle = self.staged.is_empty() && self.again.is_empty();
        let (closing, patience) = (self.closing.clone(), self.confirm_timeout);
        async move {
            closing.cancelled_owned().await;
            if !idle {
                sleep(patience).await;
            }
        }
    }

    /// Tells everybody who has stopped waiting, which frees their share of the budget.
    fn drop_expired(&mut self) {
        while let Ok(chunk) = self.queue.try_recv() {
            self.staged.push_back(chunk);
        }
        let now = Instant::now();
        for chunk in std::mem::take(&mut self.staged) {
            if chunk.deadline <= now {
                chunk.tell(Err(self.status.overdue()));
            } else {
                self.staged.push_back(chunk);
            }
        }
        for packet in std::mem::take(&mut self.again) {
            self.keep(packet);
        }
    }

    /// Keeps a packet for the next connection, if that is of use.
    fn keep(&mut self, packet: Packet) {
        let awaited = packet
            .deadline()
            .is_some_and(|deadline| deadline > Instant::now());
        if awaited && packet.attempts < MAX_ATTEMPTS {
            #[cfg(feature = "planted-bugs")]
            let packet = match planted(Bug::NewIdOnRetry) {
                true => packet.with_new_ids(),
                false => packet,
            };
            self.again.push_back(packet);
        } else {
            packet.tell(&Err(self.status.overdue()));
        }
    }

    /// Deals with the one packet that the broker will never take.
    fn refuse(&mut self, packet: Packet, reason: String) {
        if packet.chunks.len() > 1 {
            // Which of the calls in it are to blame shows when each has a packet of its own.
            self.one_by_one = true;
            packet.apart().for_each(|packet| self.keep(packet));
            return;
        }
        let refusal = match packet.messages {
            1 => PublishError::Refused { reason },
            messages => PublishError::unavailable(format!(
                "RabbitMQ refuses a packet of {messages} messages, lower amqp.packet_max_bytes: {reason}"
            )),
        };
        tracing::warn!(
            bytes = packet.bytes,
            messages = packet.messages,
            error = chain(&refusal),
            "RabbitMQ will never take a packet"
        );
        packet.tell(&Err(refusal));
    }

    /// Declares everything and asks for confirms.
    ///
    /// Never given up midway, not even to close: RabbitMQ goes on declaring behind the back of a connection that is
    /// gone, and whoever deletes a queue at that moment can take down the dead-lettering of the whole broker.
    /// <https://github.com/rabbitmq/rabbitmq-server/issues/16652>
    async fn prepared(&mut self, mut link: Link) -> Result<Link, LinkError> {
        self.topology.declare(&mut link, None).await?;
        let channel = link.channel()?.clone();
        let selected = link.run(self.connect_timeout, async move {
            let select = ConfirmSelectArguments::default();
            channel.confirm_select(select).await
        });
        selected.await?.map_err(|error| LinkError::Connect {
            endpoint: link.endpoint().to_owned(),
            cause: cause(error),
        })?;
        Ok(link)
    }

    /// Works on one connection.
    async fn serve(&mut self, link: &mut Link) -> End {
        let mut flight = Flight {
            confirms: Confirms::new(),
            window: Window::new(self.window),
            next_round_at: None,
            born: Instant::now(),
            refused: VecDeque::new(),
            proven: false,
            declaring: None,
            declare_at: Instant::now() + TOPOLOGY_CHECK,
            declare_backoff: Backoff::new(TOPOLOGY_PAUSE, TOPOLOGY_PATIENCE),
            failed_declarations: 0,
            refusal: None,
        };
        #[cfg(feature = "planted-bugs")]
        if planted_from_second_time(Bug::TagOffByOneAfterReopen) {
            flight.confirms = Confirms::off_by_one();
        }
        let end = self.exchange(link, &mut flight).await;
        if flight.proven {
            self.backoff.reset();
        }
        match &end {
            End::Drained => {}
            End::Lost(lost) => {
                tracing::warn!(reason = lost.reason, "lost the connection for publishing");
                self.status.lost(lost);
            }
            End::Stalled => {
                let queue = match flight.confirms.oldest().map(|packet| &packet.address) {
                    Some(Address::DeadLetter(_)) => self.topology.dead(),
                    Some(Address::Messages { .. }) | None => self.topology.queue(&ConsumerGroup::Store),
                };
                let reason = format!(
                    "RabbitMQ confirmed nothing in time: it hangs, has a memory or disk alarm, or its queue {queue} \
                     does not run (see `rabbitmqctl list_queues name state`)"
                );
                tracing::warn!(reason, "gave up the connection for publishing");
                self.status.stalled();
                self.status.lost(&Lost::unconfirmed(reason));
                self.connector.next_address();
            }
        }
        let waiting = std::mem::take(&mut self.again);
        let refused = flight.refused.into_iter().map(|(_, packet)| packet);
        let mut unconfirmed: Vec<_> = flight.confirms.into_unconfirmed().collect();
        if let Some(reason) = flight.refusal {
            match unconfirmed.len() {
                1 => self.refuse(unconfirmed.remove(0), reason),
                _ => self.one_by_one = true,
            }
        }
        for packet in unconfirmed.into_iter().chain(refused).chain(waiting) {
            self.keep(packet);
        }
        self.metrics.unconfirmed_packets.set(0.0);
        end
    }

    async fn exchange(&mut self, link: &mut Link, flight: &mut Flight) -> End {
        let mut queue_open = true;
        loop {
            let closing = self.closing.is_cancelled();
            if (closing || flight.next_round_at.is_none())
                && let Err(error) = self.publish_rounds(link, flight).await
            {
                return End::Lost(Lost::cut(chain(&error)));
            }
            let oldest = flight.confirms.oldest().and_then(|packet| packet.published);
            let oldest = oldest.map(|(published, _)| published);
            self.status.unconfirmed_since(oldest, flight.proven);
            self.metrics.unconfirmed_packets.set(flight.confirms.len() as f64);
            let retry_at = flight.refused.front().map(|(at, _)| *at);
            if closing && oldest.is_none() && retry_at.is_none() {
                return End::Drained;
            }
            // While a round may not begin, what arrives gathers in the queue without waking this task.
            let room = flight.window.room().is_some() && flight.next_round_at.is_none();
            select! {
                biased;
                event = link.events.recv() => {
                    let mut next = event;
                    loop {
                        let Some(event) = next else {
                            return End::Lost(Lost::cut("the connection to RabbitMQ was lost"));
                        };
                        if let Err(lost) = self.heed(event, flight) {
                            return End::Lost(lost);
                        }
                        match link.events.try_recv() {
                            Ok(event) => next = Some(event),
                            Err(mpsc::error::TryRecvError::Empty) => break,
                            Err(mpsc::error::TryRecvError::Disconnected) => next = None,
                        }
                    }
                }
                () = until(oldest.map(|published| published + self.confirm_timeout)) => return End::Stalled,
                chunk = self.queue.recv(), if room && queue_open => match chunk {
                    Some(chunk) => self.staged.push_back(chunk),
                    None => queue_open = false,
                },
                () = until(flight.next_round_at) => flight.next_round_at = None,
                () = self.closing.cancelled(), if !closing => {}
                () = until(retry_at) => {
                    let now = Instant::now();
                    while let Some((_, packet)) = flight.refused.pop_front_if(|(at, _)| *at <= now) {
                        self.again.push_back(packet);
                    }
                }
                declared = running(&mut flight.declaring) => {
                    self.declared(declared, flight);
                    if flight.failed_declarations >= TOPOLOGY_FAILURES {
                        return End::Lost(Lost::useless("the exchanges and queues cannot be declared"));
                    }
                }
                () = sleep_until(flight.declare_at), if flight.declaring.is_none() => {
                    flight.declaring = Some(Box::pin(self.topology.declare_aside(link)));
                }
            }
        }
    }

    /// Publishes what waits, as far as there is room for it.
    async fn publish_rounds(&mut self, link: &Link, flight: &mut Flight) -> Result<(), LinkError> {
        // Whoever else is ready to publish does so first: what comes in the same moment shares packets.
        yield_now().await;
        let mut calls = HashSet::new();
        self.one_by_one &= !self.again.is_empty() || flight.confirms.len() > 0;
        while let Some(mut room) = flight.window.room() {
            if self.one_by_one {
                if flight.confirms.len() > 0 {
                    break;
                }
                room.packets = 1;
            }
            let round = self.next_round(room);
            if round.is_empty() {
                break;
            }
            let chunks = round.iter().flat_map(|packet| &packet.chunks);
            calls.extend(chunks.map(|chunk| chunk.ticket.call()));
            self.publish(link, flight, round).await?;
        }
        flight.next_round_at = (calls.len() >= COMPANY).then(|| Instant::now() + self.round_pause);
        Ok(())
    }

    /// Returns what goes out next: first what was on its way on a lost connection, then what waits.
    fn next_round(&mut self, room: Room) -> Vec<Packet> {
        let now = Instant::now();
        let (mut round, mut bytes) = (Vec::new(), 0);
        while let Some(packet) = self.again.pop_front() {
            if packet.deadline().is_none_or(|deadline| deadline <= now) {
                packet.tell(&Err(self.status.overdue()));
                continue;
            }
            if round.len() >= room.packets || (!round.is_empty() && bytes >= room.bytes) {
                self.again.push_front(packet);
                break;
            }
            bytes += packet.bytes;
            round.push(packet);
        }
        if !round.is_empty() {
            return round;
        }
        while let Ok(chunk) = self.queue.try_recv() {
            self.staged.push_back(chunk);
        }
        pack(&mut self.staged, self.packet, room, now, || self.status.overdue())
    }

    /// Publishes one round.
    ///
    /// amqprs's own queue never fills, because the window is smaller; so this does not wait.
    async fn publish(
        &mut self,
        link: &Link,
        flight: &mut Flight,
        round: Vec<Packet>,
    ) -> Result<(), LinkError> {
        let number = flight.window.open_round(round.iter().map(|packet| packet.bytes));
        let mut round = VecDeque::from(round);
        while let Some(mut packet) = round.pop_front() {
            let (exchange, routing_key) = packet.address.route(&self.topology);
            if exchange.len() > SHORT_STRING || routing_key.len() > SHORT_STRING {
                flight.window.confirmed(number, packet.bytes);
                let reason = "its exchange or routing key is longer than 255 bytes".to_owned();
                packet.tell(&Err(PublishError::Refused { reason }));
                continue;
            }
            let arguments = BasicPublishArguments {
                exchange,
                routing_key,
                mandatory: true,
                immediate: false,
            };
            #[cfg(feature = "planted-bugs")]
            let arguments = BasicPublishArguments {
                mandatory: !planted(Bug::MandatoryOff),
                ..arguments
            };
            let (properties, body) = (packet.properties(), packet.body());
            #[cfg(feature = "planted-bugs")]
            if planted(Bug::AckBeforeConfirm) {
                packet.chunks.drain(..).for_each(|chunk| chunk.tell(Ok(())));
            }
            packet.attempts += 1;
            // What became of it before is nothing to this attempt: a return whose confirm was lost is no verdict.
            packet.returned = None;
            packet.published = Some((Instant::now(), number));
            self.metrics.published(&packet);
            // Noted before it is published: whatever happens next, it may be on its way.
            flight.confirms.push(packet);
            let published = match link.channel() {
                Ok(channel) => channel
                    .basic_publish(properties, body, arguments)
                    .await
                    .map_err(|error| LinkError::Lost(error.to_string())),
                Err(error) => Err(error),
            };
            if let Err(error) = published {
                round
                    .into_iter()
                    .rev()
                    .for_each(|packet| self.again.push_front(packet));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Does what an event asks for; an error ends the connection.
    fn heed(&mut self, event: Event, flight: &mut Flight) -> Result<(), Lost> {
        let (tag, multiple, refusal) = match event {
            Event::Ack { tag, multiple } => (tag, multiple, None),
            Event::Nack { tag, multiple } => {
                let refusal = PublishError::unavailable(
                    "RabbitMQ refused it: the queue is full (amqp.store_max_bytes) or without a leader",
                );
                (tag, multiple, Some(refusal))
            }
            Event::Returned { message_id, reason } => {
                let mut unconfirmed = flight.confirms.iter_mut();
                let returned = unconfirmed.find(|packet| Some(&packet.id) == message_id.as_ref());
                let packet = returned
                    .ok_or_else(|| Lost::unexpected("RabbitMQ returned a packet that was not on its way"))?;
                packet.returned = Some(reason);
                // While declaring fails it is tried again soon enough.
                if flight.failed_declarations == 0 {
                    let soon = Instant::now() + TOPOLOGY_PAUSE;
                    flight.declare_at = flight.declare_at.min(soon);
                }
                return Ok(());
            }
            Event::Closed { code, reason } => {
                if code == PRECONDITION_FAILED {
                    flight.refusal = Some(reason.clone());
                }
                return Err(Lost::closed(format!("{reason} ({code})")));
            }
            Event::Cancelled => return Ok(()),
        };
        #[cfg(feature = "planted-bugs")]
        let multiple = multiple && !planted(Bug::MultipleIgnored);
        let confirmed = flight.confirms.settle(tag, multiple);
        for mut packet in confirmed.map_err(|error| Lost::unexpected(error.to_string()))? {
            if let Some((published, round)) = packet.published {
                flight.window.confirmed(round, packet.bytes);
                self.metrics.confirmed(published.elapsed());
            }
            flight.proven = true;
            if refusal.is_some() && flight.born.elapsed() < ELECTION {
                // The connection has survived it, so it does not count as an attempt that costs one.
                packet.attempts = 0;
                let age = flight.born.elapsed();
                let pause = age.clamp(ELECTION_PAUSE, LONGEST_ELECTION_PAUSE);
                flight.refused.push_back((Instant::now() + pause, packet));
                continue;
            }
            let outcome = match (&refusal, packet.returned.take()) {
                (Some(refusal), _) => Err(refusal.clone()),
                (None, Some(reason)) => Err(PublishError::Unroutable { reason }),
                (None, None) => Ok(()),
            };
            self.metrics.settled(&packet, &outcome);
            packet.tell(&outcome);
        }
        Ok(())
    }

    /// Notes how declaring the topology again went, and when to do so the next time.
    fn declared(&self, declared: Result<(), LinkError>, flight: &mut Flight) {
        flight.declaring = None;
        match declared {
            Ok(()) => {
                flight.declare_at = Instant::now() + TOPOLOGY_CHECK;
                flight.declare_backoff.reset();
                flight.failed_declarations = 0;
                if self.status.fault(None) {
                    tracing::info!("the exchanges and queues are as they should be again");
                }
            }
            Err(error) => {
                flight.declare_at = Instant::now() + flight.declare_backoff.pause();
                flight.failed_declarations += 1;
                let fault = chain(&error);
                if self.status.fault(Some(fault.clone())) {
                    tracing::error!(
                        fault,
                        "the exchanges and queues are not as they should be; keeps trying"
                    );
                }
            }
        }
    }
}

/// Waits for a future that may not be there.
async fn running(declaring: &mut Option<Declaring>) -> Result<(), LinkError> {
    match declaring {
        Some(declaring) => declaring.await,
        None => pending().await,
    }
}
