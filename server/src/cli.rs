//! The command line. Flags are spelled as k3s spells them; one YAML file may hold the same names (`config.rs`).
//! Knows nothing of how a part is built: `settings` structs are handed to `server.rs`, `node.rs`, `up.rs`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// A light Kubernetes: one server with SQLite state, edge agents, pods as Wasm or OCI containers.
#[derive(Debug, Parser)]
#[command(name = "coracle", version, propagate_version = true, args_override_self = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Starts a one-node cluster in the foreground, deploys PATH if given, and shows pods as they change
    Up(UpArgs),
    /// Runs the control plane, and a node agent in it
    Server(ServerArgs),
    /// Runs a node agent that joins a server
    Agent(AgentArgs),
    /// Prints the token with which agents join
    Token(TokenArgs),
    /// Keeps the Wasm images of this host
    Image(ImageArgs),
    /// The Wasm runtime's CRI front: started by the agent
    #[command(hide = true)]
    WasmShim(WasmShimArgs),
    /// A process that runs guests: started by the front
    #[command(hide = true)]
    WasmWorker {
        /// Which one it is, for those who look at processes
        which: PathBuf,
    },
    /// A process that compiles one image: started by the front
    #[command(hide = true)]
    WasmCompile { task: String },
}

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// A folder with manifests (*.yaml) and Wasm files (NAME.wasm becomes the image NAME:dev)
    pub(crate) path: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[derive(Debug, Args)]
pub(crate) struct CommonArgs {
    /// Where state lies [default: /var/lib/coracle for root, else ~/.local/share/coracle]
    #[arg(long, short = 'd', value_name = "DIR", global = true)]
    pub(crate) data_dir: Option<PathBuf>,
    /// A YAML file with the same names as these flags [default: /etc/coracle/config.yaml if it is there]
    #[arg(long, short = 'c', value_name = "FILE", env = "CORACLE_CONFIG_FILE", global = true)]
    pub(crate) config: Option<PathBuf>,
    /// Logs more
    #[arg(long, global = true)]
    pub(crate) debug: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// The secret with which agents join [default: made once and kept in the data directory]
    #[arg(long, short = 't', env = "CORACLE_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// The address the API listens on
    #[arg(long, value_name = "IP", default_value = "0.0.0.0")]
    pub(crate) bind_address: IpAddr,
    /// The port the API listens on
    #[arg(long, value_name = "PORT", default_value_t = 6443)]
    pub(crate) https_listen_port: u16,
    /// The address the API is announced at, to pods and agents [default: --bind-address, or 127.0.0.1]
    #[arg(long, value_name = "IP")]
    pub(crate) advertise_address: Option<IpAddr>,
    /// Further names or addresses in the API's certificate
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) tls_san: Vec<String>,
    /// Where pod addresses come from
    #[arg(long, value_name = "CIDR", default_value = "127.42.0.0/16")]
    pub(crate) cluster_cidr: String,
    /// Where service addresses come from
    #[arg(long, value_name = "CIDR", default_value = "127.43.0.0/16")]
    pub(crate) service_cidr: String,
    /// The size of each node's part of the cluster CIDR
    #[arg(long, value_name = "BITS", default_value_t = 20)]
    pub(crate) node_cidr_mask_size: u8,
    /// Also writes the administrator's kubeconfig here
    #[arg(long, short = 'o', value_name = "FILE")]
    pub(crate) write_kubeconfig: Option<PathBuf>,
    /// Runs no node agent in this server
    #[arg(long)]
    pub(crate) disable_agent: bool,
    /// Parts to leave out: a controller's name, or scheduler
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    pub(crate) disable: Vec<String>,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// The server to join: https://HOST:6443
    #[arg(long, short = 's', value_name = "URL", env = "CORACLE_URL")]
    pub(crate) server: String,
    /// The server's token (`coracle token` prints it)
    #[arg(long, short = 't', env = "CORACLE_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct NodeArgs {
    /// The node's name [default: the host's]
    #[arg(long, value_name = "NAME", env = "CORACLE_NODE_NAME")]
    pub(crate) node_name: Option<String>,
    /// Labels to register the node with
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',')]
    pub(crate) node_label: Vec<String>,
    /// Taints to register the node with
    #[arg(long, value_name = "KEY=VALUE:EFFECT", value_delimiter = ',')]
    pub(crate) node_taint: Vec<String>,
    /// How many pods the node takes
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(crate) max_pods: u32,
    /// The domain of cluster DNS
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub(crate) cluster_domain: String,
    /// Addresses on which NodePorts listen, beside the node's own
    #[arg(long, value_name = "IP", value_delimiter = ',', default_value = "127.0.0.1")]
    pub(crate) node_port_addresses: Vec<IpAddr>,
    /// A CRI socket for pods that are no Wasm, such as unix:///run/containerd/containerd.sock
    #[arg(long, value_name = "SOCKET")]
    pub(crate) container_runtime_endpoint: Option<String>,
    /// Registries that are spoken to without TLS (loopback ones always are)
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub(crate) insecure_registry: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ImageArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    #[command(subcommand)]
    pub(crate) command: ImageCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Takes a .wasm file or an image archive into this host's images
    Import {
        file: PathBuf,
        /// The image's name [default: the file's name with the tag dev]
        #[arg(long)]
        name: Option<String>,
    },
    /// Lists this host's images
    #[command(alias = "ls")]
    List,
    /// Removes images
    #[command(alias = "rm")]
    Remove {
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Pushes an image to the registry in its name
    Push {
        name: String,
        /// The registry's user and password
        #[arg(long, value_name = "USER:PASSWORD", env = "CORACLE_REGISTRY_AUTH", hide_env_values = true)]
        creds: Option<String>,
        /// Speaks plain HTTP (loopback registries always do)
        #[arg(long)]
        plain_http: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct WasmShimArgs {
    #[arg(long)]
    pub(crate) data_dir: PathBuf,
    #[arg(long, value_delimiter = ',')]
    pub(crate) insecure_registry: Vec<String>,
    #[arg(long)]
    pub(crate) debug: bool,
}

impl ServerArgs {
    pub(crate) fn listen(&self) -> SocketAddr {
        SocketAddr::new(self.bind_address, self.https_listen_port)
    }
}
