//! The command line. Flags are spelled as k3s spells them; one YAML file may hold the same names (`config.rs`).
//! Knows nothing of how a part is built: `settings` structs are handed to `server.rs`, `node.rs`, `up.rs`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use coracle_agent::housekeeping::HousekeepingArgs;

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
    #[command(flatten)]
    pub(crate) housekeeping: HousekeepingArgs,
    /// The domain of cluster DNS
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub(crate) cluster_domain: String,
    /// Addresses on which NodePorts listen, beside the node's own
    #[arg(long, value_name = "IP", value_delimiter = ',', default_value = "127.0.0.1")]
    pub(crate) node_port_addresses: Vec<IpAddr>,
    /// A CRI socket for pods that are no Wasm, such as unix:///run/containerd/containerd.sock
    #[arg(long, value_name = "SOCKET")]
    pub(crate) container_runtime_endpoint: Option<String>,
    #[command(flatten)]
    pub(crate) images: ImageSourceArgs,
    /// What compiled code of Wasm images may take on disk; what was used longest ago goes first
    #[arg(long, value_name = "SIZE", default_value = "2Gi", value_parser = bytes)]
    pub(crate) wasm_code_limit: u64,
}

/// Where Wasm images come from, and which are accepted.
#[derive(Debug, Clone, Args)]
pub(crate) struct ImageSourceArgs {
    /// Registries that are spoken to without TLS, as are loopback addresses with a port
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub(crate) insecure_registry: Vec<String>,
    /// Mirrors, credentials and certificates of registries [default: /etc/coracle/registries.yaml if it is there]
    #[arg(long, value_name = "FILE")]
    pub(crate) private_registry: Option<PathBuf>,
    /// Asks no registry itself where a mirror is named for it
    #[arg(long)]
    pub(crate) disable_default_registry_endpoint: bool,
    /// Whose signatures images need [default: /etc/coracle/policy.yaml if it is there]
    #[arg(long, value_name = "FILE")]
    pub(crate) image_policy: Option<PathBuf>,
    /// The largest image layer that is pulled
    #[arg(long, value_name = "SIZE", default_value = "1Gi", value_parser = bytes)]
    pub(crate) image_layer_limit: u64,
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
        /// A .wasm file, or a tar with an OCI layout or of `docker save` (gzip allowed)
        file: PathBuf,
        /// The image's name [default: what the archive says; of a .wasm file, its own with the tag dev]
        #[arg(long)]
        name: Option<String>,
    },
    /// Lists this host's images
    #[command(alias = "ls")]
    List {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Shows what images consist of, what they import and export, and whether they are compiled
    Inspect {
        /// Names or ids of images
        #[arg(required = true, value_name = "IMAGE")]
        names: Vec<String>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Removes images
    #[command(alias = "rm")]
    Remove {
        /// Names of images; an id removes all names of the image
        #[arg(required = true, value_name = "IMAGE")]
        names: Vec<String>,
    },
    /// Pulls an image from its registry or a mirror
    Pull {
        /// The image's name, such as ghcr.io/team/app:v1
        name: String,
        /// The registry's user and password
        #[arg(long, value_name = "USER:PASSWORD", env = "CORACLE_REGISTRY_AUTH", hide_env_values = true)]
        creds: Option<String>,
        #[command(flatten)]
        source: ImageSourceArgs,
    },
    /// Pushes an image to the registry in its name
    Push(PushArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// The image's name
    pub(crate) name: String,
    /// Pushes it under this name instead
    #[arg(long = "as", value_name = "NAME")]
    pub(crate) target: Option<String>,
    /// The registry's user and password
    #[arg(long, value_name = "USER:PASSWORD", env = "CORACLE_REGISTRY_AUTH", hide_env_values = true)]
    pub(crate) creds: Option<String>,
    /// Speaks plain HTTP (loopback registries always do)
    #[arg(long)]
    pub(crate) plain_http: bool,
    /// Signs the image as `cosign sign --key` does: a PKCS#8 PEM file, ECDSA P-256 or Ed25519, without a passphrase
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// Adds compiled code, signed, for other machines of this architecture and version of coracle
    #[arg(long, requires = "key")]
    pub(crate) precompiled: bool,
    #[command(flatten)]
    pub(crate) source: ImageSourceArgs,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct OutputArgs {
    /// How it is shown
    #[arg(short = 'o', long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct WasmShimArgs {
    #[arg(long)]
    pub(crate) data_dir: PathBuf,
    #[command(flatten)]
    pub(crate) images: ImageSourceArgs,
    #[arg(long, default_value = "2Gi", value_parser = bytes)]
    pub(crate) wasm_code_limit: u64,
    #[arg(long)]
    pub(crate) debug: bool,
}

/// Bytes as Kubernetes writes them: `512Mi`, `2G`, `1048576`.
fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit = match &text[digits..] {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return Err("it is a number of bytes, such as 512Mi or 2Gi".to_owned()),
    };
    let number: u64 = text[..digits].parse().map_err(|_| "it is a number of bytes, such as 512Mi or 2Gi")?;
    number.checked_mul(unit).ok_or_else(|| "it is too large".to_owned())
}

impl ServerArgs {
    pub(crate) fn listen(&self) -> SocketAddr {
        SocketAddr::new(self.bind_address, self.https_listen_port)
    }
}
