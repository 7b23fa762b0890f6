//! The settings of wasmtime that compiler and worker must agree on. Machine code made under one set of them is refused
//! under another, so both get them from here.

use serde::{Deserialize, Serialize};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

/// How much address space there is to spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Profile {
    /// 47 bits or more: each memory reserves 4 GiB, so that guests need no bounds checks, and HTTP instances come from
    /// a pool.
    Roomy,
    /// 39 bits (many ARM boards): small reservations, bounds checks, no pool.
    Tight,
}

/// Instances the pool holds; each reserves a little over 4 GiB of address space, and nothing else until it is used.
pub(crate) const POOL_INSTANCES: u32 = 512;

/// An instance is freed within one of these periods after it is cancelled, and yields to its neighbours as often.
pub(crate) const EPOCH_MS: u64 = 5;

impl Profile {
    /// Tries whether the pool's address space can be had.
    #[allow(unsafe_code)]
    pub(crate) fn probe() -> Profile {
        let wanted = (POOL_INSTANCES as usize) * (5 << 30);
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice, given back at once. It is neither
        // readable nor backed by memory.
        let fits = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            let at = libc::mmap(std::ptr::null_mut(), wanted, libc::PROT_NONE, flags, -1, 0);
            at != libc::MAP_FAILED && libc::munmap(at, wanted) == 0
        };
        if fits { Profile::Roomy } else { Profile::Tight }
    }

    fn config(self) -> Config {
        let mut config = Config::new();
        config
            .epoch_interruption(true)
            // Only 0.3 components need it, and it costs every store and every call: they have an engine of their own.
            .concurrency_support(false)
            .wasm_threads(false);
        match self {
            Profile::Roomy => {}
            Profile::Tight => {
                config
                    .memory_reservation(16 << 20)
                    .memory_reservation_for_growth(16 << 20)
                    .memory_guard_size(64 << 10)
                    .gc_heap_reservation(16 << 20)
                    .gc_heap_reservation_for_growth(16 << 20)
                    .gc_heap_guard_size(64 << 10);
            }
        }
        config
    }

    fn concurrent_config(self) -> Config {
        let mut config = self.config();
        config.concurrency_support(true).wasm_component_model_async(true);
        config
    }

    /// For the compiler process. `concurrent` is for components of WASI 0.3; `portable` for code that goes to other
    /// machines: it uses nothing of this processor that not all of its kind have.
    pub(crate) fn compiling(self, portable: bool, concurrent: bool) -> wasmtime::Result<Engine> {
        let mut config = if concurrent { self.concurrent_config() } else { self.config() };
        if portable {
            config.target(&format!("{}-unknown-linux-gnu", std::env::consts::ARCH))?;
        }
        Engine::new(&config)
    }

    /// For components of WASI 0.3. Their instances are kept, so each maps what it needs.
    pub(crate) fn concurrent(self) -> wasmtime::Result<Engine> {
        let mut config = self.concurrent_config();
        config.enable_compiler(false).allocation_strategy(InstanceAllocationStrategy::OnDemand);
        Engine::new(&config)
    }

    /// For guests that run long: each instance maps what it needs.
    pub(crate) fn commands(self) -> wasmtime::Result<Engine> {
        let mut config = self.config();
        config.enable_compiler(false).allocation_strategy(InstanceAllocationStrategy::OnDemand);
        Engine::new(&config)
    }

    /// For instances that live as long as a request. Having an engine of their own keeps long-running guests out of the
    /// pool: they could otherwise fill it and starve every HTTP pod.
    pub(crate) fn requests(self) -> wasmtime::Result<Engine> {
        let mut config = self.config();
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
                    // What a pod leaves behind when it is idle again.
                    .max_unused_warm_slots(8)
                    .linear_memory_keep_resident(64 << 10)
                    .table_keep_resident(16 << 10)
                    .async_stack_keep_resident(16 << 10);
                config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
            }
            Profile::Tight => {
                config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
            }
        }
        Engine::new(&config)
    }
}
