//! Plays one run: carries requests from the traffic to the gateway, from there to the hosts, and the answers back.

#[cfg(test)]
mod tests;

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    agenda::{Agenda, Event},
    gateway::{
        Actions, BETWEEN_BYTES_LIMIT, FIRST_BYTE_LIMIT, Failure, Gateway, HostId, PROBE_EVERY, Refusal,
        RequestId,
    },
    ollama::{Happening, Server},
    scenario::{FaultKind, Scenario},
    traffic::{self, Planned},
};

/// How long a refusal takes to come back.
const ROUND_TRIP: Duration = Duration::from_millis(1);
/// A run that takes longer than this does not end: some request was forgotten.
const FOREVER: Duration = Duration::from_hours(30 * 24);

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With a whole answer.
    Answered,
    /// The gateway turned it away.
    Shed,
    /// No host answered it, or the answer broke off.
    Failed,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Who made it.
    pub caller: usize,
    /// The time from its arrival to the first byte of its answer, if there was one.
    pub first_byte: Option<Duration>,
    /// How it ended.
    pub end: End,
}

/// What became of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Every request, by id.
    pub records: Vec<Record>,
    /// How often the hosts loaded a model.
    pub loads: u32,
    /// When the last request ended.
    pub ended: Duration,
}

/// Plays `scenario` with the traffic of `seed` against a gateway.
///
/// # Errors
/// When the gateway does what it must not, or forgets a request.
pub fn play(scenario: &Scenario, seed: u64, gateway: &mut dyn Gateway) -> Result<Run> {
    let planned = traffic::plan(scenario, seed)?;
    Engine::new(scenario, planned, gateway).run()
}

/// Where a request is.
#[derive(Debug, Clone, Copy, Default)]
struct Course {
    arrived: Option<Duration>,
    at: Option<HostId>,
    attempt: u32,
    first_byte: Option<Duration>,
    end: Option<End>,
}

struct Host {
    server: Server,
    version: u64,
}

struct Engine<'a> {
    scenario: &'a Scenario,
    gateway: &'a mut dyn Gateway,
    planned: Vec<Planned>,
    courses: Vec<Course>,
    hosts: Vec<Host>,
    agenda: Agenda,
    now: Duration,
    wake_at: Option<Duration>,
    /// Whether the gateway was told something since it was last asked what to do.
    told: bool,
    /// Requests that have not ended.
    open: usize,
}

impl<'a> Engine<'a> {
    fn new(scenario: &'a Scenario, planned: Vec<Planned>, gateway: &'a mut dyn Gateway) -> Self {
        let mut agenda = Agenda::default();
        for (place, fault) in scenario.faults.iter().enumerate() {
            agenda.plan(fault.from, Event::FaultBegins(place));
            agenda.plan(fault.until, Event::FaultEnds(place));
            if fault.kind == FaultKind::Hang {
                agenda.plan(fault.from + BETWEEN_BYTES_LIMIT, Event::BetweenBytesLimit(place));
            }
        }
        for host in 0..scenario.hosts.len() {
            agenda.plan(Duration::ZERO, Event::Probe(host));
        }
        for planned in &planned {
            if let Some(at) = planned.at {
                agenda.plan(at, Event::Arrival(planned.request.id));
            }
        }
        let host = |spec| Host { server: Server::new(spec, scenario.models), version: 0 };
        Self {
            scenario,
            gateway,
            courses: vec![Course::default(); planned.len()],
            open: planned.len(),
            planned,
            hosts: scenario.hosts.iter().copied().map(host).collect(),
            agenda,
            now: Duration::ZERO,
            wake_at: None,
            told: false,
        }
    }

    fn run(mut self) -> Result<Run> {
        while self.open > 0 {
            let (now, event) = self.agenda.next().context("an event")?;
            ensure!(now < FOREVER, "{} requests never end", self.open);
            self.now = now;
            self.told = self.handle(event)?;
            while std::mem::take(&mut self.told) {
                let actions = self.gateway.poll(now);
                self.act(actions)?;
            }
        }
        let record = |(course, planned): (&Course, &Planned)| {
            let first_byte =
                course.first_byte.zip(course.arrived).map(|(first, arrived)| first.saturating_sub(arrived));
            Some(Record { caller: planned.request.caller, first_byte, end: course.end? })
        };
        let records = self.courses.iter().zip(&self.planned).map(record);
        Ok(Run {
            records: records.collect::<Option<_>>().context("every request has ended")?,
            loads: self.hosts.iter().map(|host| host.server.loads()).sum(),
            ended: self.now,
        })
    }

    /// Lets an event happen; returns whether the gateway was told something.
    fn handle(&mut self, event: Event) -> Result<bool> {
        match event {
            Event::Arrival(id) => {
                self.course(id)?.arrived = Some(self.now);
                self.gateway.arrive(self.now, &self.planned.get(id).context("a request")?.request);
            }
            Event::Change(host, version) => {
                if self.host(host)?.version != version {
                    return Ok(false);
                }
                self.touch(host, |_| ())?;
            }
            Event::Refusal(id, host, failure) => self.fail(id, host, failure)?,
            Event::FirstByteLimit(id, attempt) => {
                let is_late = |course: &Course| course.attempt == attempt && course.first_byte.is_none();
                let Some(host) = self.course(id)?.at.filter(|_| self.courses.get(id).is_some_and(is_late))
                else {
                    return Ok(false);
                };
                // It may come at this very moment.
                self.touch(host, |_| ())?;
                if is_late(self.course(id)?) {
                    self.touch(host, |server| server.abandon(id))?;
                    self.fail(id, host, Failure::TimedOut)?;
                }
            }
            Event::FaultBegins(place) => {
                let fault = self.scenario.faults.get(place).context("a fault")?;
                for id in self.touch(fault.host, |server| server.fail(fault.kind))? {
                    self.fail(id, fault.host, Failure::Refused)?;
                }
            }
            Event::BetweenBytesLimit(place) => self.cut(place)?,
            Event::FaultEnds(place) => {
                let host = self.scenario.faults.get(place).context("a fault")?.host;
                self.touch(host, Server::recover)?;
            }
            Event::Probe(host) => {
                self.agenda.plan(self.now + PROBE_EVERY, Event::Probe(host));
                let server = &self.host(host)?.server;
                let (found, hangs) = (server.probe(), server.hangs());
                if hangs {
                    self.agenda.plan(self.now + PROBE_EVERY, Event::ProbeLimit(host));
                    return Ok(false);
                }
                self.gateway.probed(self.now, host, found.as_ref().ok_or(Failure::Refused));
            }
            Event::ProbeLimit(host) => self.gateway.probed(self.now, host, Err(Failure::TimedOut)),
            Event::Wake => {
                if self.wake_at != Some(self.now) {
                    return Ok(false);
                }
                self.wake_at = None;
            }
        }
        Ok(true)
    }

    /// Does what the gateway wants.
    fn act(&mut self, Actions { withdrawals, dispatches, refusals, wake_at }: Actions) -> Result<()> {
        for id in withdrawals {
            self.withdraw(id)?;
        }
        for (id, refusal) in refusals {
            self.check_waiting(id)?;
            let end = match refusal {
                Refusal::Shed => End::Shed,
                Refusal::Failed => End::Failed,
            };
            self.end(id, end)?;
        }
        for (id, host) in dispatches {
            self.check_waiting(id)?;
            let course = self.course(id)?;
            course.at = Some(host);
            course.attempt += 1;
            let attempt = course.attempt;
            let work = self.planned.get(id).context("a request")?.work;
            match self.touch(host, |server| server.accept(id, &work))? {
                Ok(()) => self.agenda.plan(self.now + FIRST_BYTE_LIMIT, Event::FirstByteLimit(id, attempt)),
                Err(failure) => self.agenda.plan(self.now + ROUND_TRIP, Event::Refusal(id, host, failure)),
            }
        }
        if let Some(at) =
            wake_at.map(|at| at.max(self.now + ROUND_TRIP)).filter(|at| self.wake_at != Some(*at))
        {
            self.wake_at = Some(at);
            self.agenda.plan(at, Event::Wake);
        }
        Ok(())
    }

    /// Brings a host up to now, tells the gateway what happened there, and does something to it.
    fn touch<T>(&mut self, host: HostId, change: impl FnOnce(&mut Server) -> T) -> Result<T> {
        let now = self.now;
        for happening in self.host(host)?.server.advance(now) {
            self.told = true;
            match happening {
                Happening::FirstByte(id) => {
                    self.course(id)?.first_byte = Some(now);
                    self.gateway.first_byte(now, id, host);
                }
                Happening::Finished(id, timings) => {
                    self.end(id, End::Answered)?;
                    self.gateway.finished(now, id, host, &timings);
                }
            }
        }
        let entry = self.host(host)?;
        let result = change(&mut entry.server);
        entry.version += 1;
        let (version, next) = (entry.version, entry.server.next_change());
        if let Some(at) = next {
            self.agenda.plan(at, Event::Change(host, version));
        }
        Ok(result)
    }

    /// An attempt failed at a host that no longer has it.
    fn fail(&mut self, id: RequestId, host: HostId, failure: Failure) -> Result<()> {
        let course = self.course(id)?;
        course.at = None;
        let failure = if course.first_byte.is_some() { Failure::BrokenOff } else { failure };
        if failure == Failure::BrokenOff {
            self.end(id, End::Failed)?;
        }
        self.gateway.failed(self.now, id, host, failure);
        Ok(())
    }

    /// Takes a request from its host, unless its first byte comes at this very moment.
    fn withdraw(&mut self, id: RequestId) -> Result<()> {
        let host = self.course(id)?.at.with_context(|| format!("request {id} is at no host"))?;
        self.touch(host, |_| ())?;
        if self.course(id)?.first_byte.is_none() {
            self.touch(host, |server| server.abandon(id))?;
            self.fail(id, host, Failure::Withdrawn)?;
            self.told = true;
        }
        Ok(())
    }

    /// Ends the answers that stand still since a host hangs. Those of other hosts and times are not there.
    fn cut(&mut self, place: usize) -> Result<()> {
        let host = self.scenario.faults.get(place).context("a fault")?.host;
        if !self.host(host)?.server.hangs() {
            return Ok(());
        }
        let cut = |(id, course): (RequestId, &Course)| {
            (course.at == Some(host) && course.first_byte.is_some()).then_some(id)
        };
        let cut: Vec<_> = self.courses.iter().enumerate().filter_map(cut).collect();
        for id in cut {
            self.touch(host, |server| server.abandon(id))?;
            self.fail(id, host, Failure::BrokenOff)?;
        }
        Ok(())
    }

    fn end(&mut self, id: RequestId, end: End) -> Result<()> {
        let course = self.course(id)?;
        course.at = None;
        if course.end.replace(end).is_some() {
            bail!("request {id} ended twice");
        }
        self.open -= 1;
        if let Some((next, wait)) = self.planned.get(id).and_then(|planned| planned.next) {
            self.agenda.plan(self.now + wait, Event::Arrival(next));
        }
        Ok(())
    }

    fn check_waiting(&mut self, id: RequestId) -> Result<()> {
        let Course { arrived, at, end, .. } = *self.course(id)?;
        ensure!(arrived.is_some() && at.is_none() && end.is_none(), "request {id} does not wait");
        Ok(())
    }

    fn course(&mut self, id: RequestId) -> Result<&mut Course> {
        self.courses.get_mut(id).context("no such request")
    }

    fn host(&mut self, id: HostId) -> Result<&mut Host> {
        self.hosts.get_mut(id).context("no such host")
    }
}
