//! A real Redis Cluster for tests: three processes of our own that share the slots, with a replica each if wanted.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use tokio::{net::TcpSocket, sync::Mutex};

use crate::{ollama::kept_port, redis_commands::Connection, redis_server::RedisServer};

/// How long the nodes may take to agree.
const START_LIMIT: Duration = Duration::from_mins(1);
/// The slots of each of the three.
const SLOTS: [(&str, &str); 3] = [("0", "5460"), ("5461", "10922"), ("10923", "16383")];

/// A cluster of three primaries.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    server: RedisServer,
    /// The port on which nodes talk to each other.
    bus: TcpSocket,
}

impl Node {
    /// What a `durable` node acknowledged survives its end.
    fn start(durable: bool) -> Result<Self> {
        let bus = kept_port()?;
        let port = bus.local_addr()?.port().to_string();
        let server = RedisServer::start_with(&[
            "--cluster-enabled",
            "yes",
            "--cluster-port",
            &port,
            "--cluster-node-timeout",
            "3000",
            "--appendonly",
            if durable { "yes" } else { "no" },
            "--appendfsync",
            "always",
            // Replicas are filled one by one, at once.
            "--repl-diskless-sync-delay",
            "0",
        ])?;
        Ok(Self { server, bus })
    }

    async fn run(&self, words: &[&str]) -> Result<String> {
        let reply = Connection::open(&self.server).await?.run(words).await;
        Ok(reply.with_context(|| words.join(" "))?.concat())
    }
}

impl RedisCluster {
    /// The cluster that all tests of this process share. Its nodes end with the process that started them, so it is
    /// started once and kept by whoever uses it.
    pub async fn shared() -> Result<Arc<Self>> {
        static SHARED: Mutex<std::sync::Weak<RedisCluster>> = Mutex::const_new(std::sync::Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(cluster) = shared.upgrade() {
            return Ok(cluster);
        }
        let cluster = Arc::new(Self::start(false).await?);
        *shared = Arc::downgrade(&cluster);
        Ok(cluster)
    }

    /// A cluster of one's own; if wanted, each primary has a replica, and all write to disk before they acknowledge.
    pub async fn start(with_replicas: bool) -> Result<Self> {
        let count = if with_replicas { 6 } else { 3 };
        let nodes = (0..count).map(|_| Node::start(with_replicas)).collect::<Result<Vec<_>>>()?;
        let cluster = Self { nodes };
        for (index, (node, (from, to))) in cluster.nodes.iter().zip(SLOTS).enumerate() {
            node.run(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]).await?;
            node.run(&["CLUSTER", "ADDSLOTSRANGE", from, to]).await?;
        }
        let (first, others) = cluster.nodes.split_first().context("no nodes")?;
        for node in others {
            let (port, bus) = (node.server.url().port().context("no port")?, node.bus.local_addr()?.port());
            first.run(&["CLUSTER", "MEET", "127.0.0.1", &port.to_string(), &bus.to_string()]).await?;
        }
        cluster.until(|info| info.contains(&format!("cluster_known_nodes:{count}\r"))).await?;
        for (index, replica) in cluster.nodes.iter().enumerate().skip(SLOTS.len()) {
            let id = cluster.node(index - SLOTS.len())?.run(&["CLUSTER", "MYID"]).await?;
            replica.run(&["CLUSTER", "REPLICATE", &id]).await?;
        }
        cluster.until(|info| info.contains("cluster_state:ok")).await?;
        Ok(cluster)
    }

    /// Its nodes as a list of URLs.
    pub fn urls(&self) -> String {
        self.nodes.iter().map(|node| node.server.url().as_str()).collect::<Vec<_>>().join(",")
    }

    /// One of its servers; replicas follow the three primaries in their order.
    pub fn server(&self, index: usize) -> Result<&RedisServer> {
        Ok(&self.node(index)?.server)
    }

    /// Has the replica of a primary take its place, without loss.
    pub async fn fail_over(&self, primary: usize) -> Result<()> {
        let replica = self.node(primary + SLOTS.len())?;
        let started = Instant::now();
        // Right after the start it may not follow its primary yet.
        while let Err(error) = replica.run(&["CLUSTER", "FAILOVER"]).await {
            ensure!(started.elapsed() < START_LIMIT, "{error:#}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        while !replica.run(&["ROLE"]).await?.starts_with("master") {
            ensure!(started.elapsed() < START_LIMIT, "the replica does not take over");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    fn node(&self, index: usize) -> Result<&Node> {
        self.nodes.get(index).context("no such node")
    }

    /// Waits until every node says so of the cluster.
    async fn until(&self, wished: impl Fn(&str) -> bool) -> Result<()> {
        let started = Instant::now();
        loop {
            let infos = try_join_all(self.nodes.iter().map(|node| node.run(&["CLUSTER", "INFO"]))).await?;
            if infos.iter().all(|info| wished(info)) {
                return Ok(());
            }
            ensure!(started.elapsed() < START_LIMIT, "the nodes do not agree: {infos:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
