//! The settings of wasmtime that compiler and worker must agree on. Machine code made under one set of them is refused
//! under another, so both get them from here.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

/// How guests are run, by what the machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// 47 bits or more: each memory reserves 4 GiB, so that guests need no bounds checks, and HTTP instances come from
    /// a pool.
    Roomy,
    /// 39 bits (many ARM boards): small reservations, bounds checks, no pool.
    Tight,
    /// As tight, and no native code: the bytecode of wasmtime's interpreter, Pulley. Where there is no compiler for the
    /// processor wasmtime takes it by itself; this is for machines that must not run generated code.
    Interpreted,
}

/// [`Profile`] by name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no engine: roomy, tight or interpreted")]
pub struct NoSuchProfile(String);

impl FromStr for Profile {
    type Err = NoSuchProfile;

    fn from_str(name: &str) -> Result<Profile, NoSuchProfile> {
        match name {
            "roomy" => Ok(Profile::Roomy),
            "tight" => Ok(Profile::Tight),
            "interpreted" => Ok(Profile::Interpreted),
            other => Err(NoSuchProfile(other.to_owned())),
        }
    }
}

/// Instances the pool holds; each reserves a little over 4 GiB of address space, and nothing else until it is used.
const POOL_INSTANCES: u32 = 512;

/// Pulley's bytecode for this machine's pointers.
const PULLEY: &str = if cfg!(target_pointer_width = "64") { "pulley64" } else { "pulley32" };

/// An instance is freed within one of these periods after it is cancelled, and yields to its neighbours as often. Also the
/// kernel looks anew for who is to run when it does: else it may leave somebody who was woken waiting until its own next
/// tick, which is 4 ms away on many machines.
pub(crate) const EPOCH_MS: u64 = 1;

impl Profile {
    /// Tries whether the pool's address space can be had.
    pub(crate) fn probe() -> Profile {
        if can_reserve((POOL_INSTANCES as usize) * (5 << 30)) { Profile::Roomy } else { Profile::Tight }
    }

    /// How many instances [`Self::requests`] has a pool for.
    pub(crate) fn pooled(self) -> usize {
        match self {
            Profile::Roomy => POOL_INSTANCES as usize,
            Profile::Tight | Profile::Interpreted => 0,
        }
    }

    fn config(self) -> wasmtime::Result<Config> {
        let mut config = Config::new();
        config
            .epoch_interruption(true)
            // Only 0.3 components need it, and it costs every store and every call: they have an engine of their own.
            .concurrency_support(false)
            .wasm_threads(false)
            // Growth of a memory with such pages may fail without the limiter having been asked, which it takes for a
            // failure of what it granted last (`worker::memory`).
            .wasm_custom_page_sizes(false);
        match self {
            Profile::Roomy => {}
            Profile::Tight | Profile::Interpreted => {
                config
                    .memory_reservation(16 << 20)
                    .memory_reservation_for_growth(16 << 20)
                    .memory_guard_size(64 << 10)
                    .gc_heap_reservation(16 << 20)
                    .gc_heap_reservation_for_growth(16 << 20)
                    .gc_heap_guard_size(64 << 10);
            }
        }
        if self == Profile::Interpreted {
            config.target(PULLEY)?;
        }
        Ok(config)
    }

    fn concurrent_config(self) -> wasmtime::Result<Config> {
        let mut config = self.config()?;
        config.concurrency_support(true).wasm_component_model_async(true);
        Ok(config)
    }

    /// For the compiler process. `concurrent` is for components of WASI 0.3; `portable` for code that goes to other
    /// machines: it uses nothing of this processor that not all of its kind have.
    pub(crate) fn compiling(self, portable: bool, concurrent: bool) -> wasmtime::Result<Engine> {
        let mut config = if concurrent { self.concurrent_config()? } else { self.config()? };
        if portable && self != Profile::Interpreted {
            config.target(&format!("{}-unknown-linux-gnu", std::env::consts::ARCH))?;
        }
        Engine::new(&config)
    }

    /// For components of WASI 0.3. Their instances are kept, so each maps what it needs.
    pub(crate) fn concurrent(self) -> wasmtime::Result<Engine> {
        let mut config = self.concurrent_config()?;
        config.enable_compiler(false).allocation_strategy(InstanceAllocationStrategy::OnDemand);
        Engine::new(&config)
    }

    /// For guests that run long: each instance maps what it needs.
    pub(crate) fn commands(self) -> wasmtime::Result<Engine> {
        let mut config = self.config()?;
        config.enable_compiler(false).allocation_strategy(InstanceAllocationStrategy::OnDemand);
        Engine::new(&config)
    }

    /// For instances that live as long as a request. Having an engine of their own keeps long-running guests out of the
    /// pool: they could otherwise fill it and starve every HTTP pod.
    pub(crate) fn requests(self) -> wasmtime::Result<Engine> {
        let mut config = self.config()?;
        config.enable_compiler(false);
        match self {
            Profile::Roomy => {
                let mut pool = PoolingAllocationConfig::new();
                pool.total_component_instances(POOL_INSTANCES)
                    // A component made from a core module has up to four inside: itself, the adapter and two shims.
                    .total_core_instances(POOL_INSTANCES * 8)
                    .total_memories(POOL_INSTANCES)
                    .max_memories_per_component(8)
                    .total_tables(POOL_INSTANCES * 4)
                    .max_tables_per_component(16)
                    .total_stacks(POOL_INSTANCES)
                    .total_gc_heaps(POOL_INSTANCES / 8)
                    .max_core_instances_per_component(32)
                    // While more slots than this are free that were used before, no fresh one is taken.
                    .max_unused_warm_slots(8)
                    // Not with `pagemap_scan`, though a pod would answer twice as many requests: before wasmtime 50, which
                    // needs Rust 1.97, it passes over pages that are dirty and swapped out, or being moved, and the next
                    // instance reads them (bytecodealliance/wasmtime#14357).
                    .linear_memory_keep_resident(64 << 10)
                    .table_keep_resident(16 << 10)
                    .async_stack_keep_resident(16 << 10);
                config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
            }
            Profile::Tight | Profile::Interpreted => {
                config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
            }
        }
        Engine::new(&config)
    }
}

/// Whether so many bytes of address space are free and allowed.
#[allow(unsafe_code)]
fn can_reserve(bytes: usize) -> bool {
    // SAFETY: a fresh anonymous mapping at an address of the kernel's choice, given back at once. It is neither readable
    // nor backed by memory.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let at = libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_NONE, flags, -1, 0);
        at != libc::MAP_FAILED && libc::munmap(at, bytes) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_has_not_is_not_reserved() {
        assert!(can_reserve(1 << 20));
        assert!(!can_reserve(1 << 56));
    }

    #[test]
    fn each_profile_compiles_what_its_engines_run() {
        let module = wat::parse_str("(module (func (export \"f\") (result i32) i32.const 7))").expect("it is text");
        for profile in ["roomy", "tight", "interpreted"] {
            let profile: Profile = profile.parse().expect("a name");
            let code = profile
                .compiling(false, false)
                .and_then(|engine| engine.precompile_module(&module))
                .expect("it compiles");
            for engine in [profile.commands(), profile.requests()] {
                #[allow(unsafe_code)]
                // SAFETY: it comes from the compiler, a line above.
                let loaded = unsafe { wasmtime::Module::deserialize(&engine.expect("an engine"), &code) };
                assert!(loaded.is_ok(), "{profile:?}");
            }
        }
        assert!("fast".parse::<Profile>().is_err());
    }
}
