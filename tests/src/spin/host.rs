//! What one component instance holds on the host side, and the imports it is linked with. Must never offer an interface
//! that Spin does not, nor send a request that the component's `allowed_outbound_hosts` deny.

use std::sync::Arc;

use anyhow::Result;
use wasmtime::component::{HasData, Linker, ResourceTable};
use wasmtime::{Engine, Store};
use wasmtime_wasi::p2::pipe::MemoryOutputPipe;
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

use super::outbound::AllowedHosts;
use super::variables::Values;

pub(super) mod bindings {
    //! `spin:redis` and `spin:variables`, generated from their WIT.

    wasmtime::component::bindgen!({
        path: ["wit/spin-redis@3.0.0", "wit/spin-variables@3.0.0"],
        inline: "package paddock:tests; world host { import spin:redis/redis@3.0.0; import spin:variables/variables@3.0.0; }",
        imports: { default: async | trappable },
        with: { "spin:redis/redis.connection": crate::spin::redis::Connection },
    });
}

/// One component as the manifest and the variables define it.
#[derive(Debug)]
pub(super) struct ComponentConfig {
    pub(super) id: String,
    pub(super) variables: Values,
    pub(super) environment: Values,
    pub(super) allowed_hosts: AllowedHosts,
    pub(super) log: MemoryOutputPipe,
}

/// The data of one instance's store.
pub(super) struct State {
    pub(super) table: ResourceTable,
    pub(super) component: Arc<ComponentConfig>,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    outbound: OutboundHttp,
}

/// Names the `spin:*` host implementations to the linker.
pub(super) struct Spin;

impl HasData for Spin {
    type Data<'a> = &'a mut State;
}

/// A new store for an instance of `component`.
pub(super) fn store(engine: &Engine, component: &Arc<ComponentConfig>) -> Store<State> {
    let mut wasi = WasiCtxBuilder::new();
    wasi.stdout(component.log.clone()).stderr(component.log.clone());
    for (name, value) in &component.environment {
        wasi.env(name, value);
    }
    let state = State {
        table: ResourceTable::new(),
        component: Arc::clone(component),
        wasi: wasi.build(),
        http: WasiHttpCtx::new(),
        outbound: OutboundHttp(Arc::clone(component)),
    };
    Store::new(engine, state)
}

/// The imports of a Spin HTTP component that this project's components may use.
pub(super) fn linker(engine: &Engine) -> Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi::p3::add_to_linker(&mut linker)?;
    wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    bindings::Host_::add_to_linker::<State, Spin>(&mut linker, |state| state)?;
    Ok(linker)
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.outbound }
    }
}

struct OutboundHttp(Arc<ComponentConfig>);

type Io = Box<dyn Future<Output = Result<(), Error>> + Send>;

impl WasiHttpHooks for OutboundHttp {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _processed: Io,
    ) -> Box<dyn Future<Output = Result<(http::Response<WasiBody>, Io), Error>> + Send> {
        let component = Arc::clone(&self.0);
        Box::new(async move {
            // A list that does not parse denies; the guest is told no more than that.
            if !component.allowed_hosts.check(&request.uri().to_string(), "https").unwrap_or(false) {
                return Err(Error::HttpRequestDenied);
            }
            let (response, io) = wasmtime_wasi_http::default_send_request(request, options).await?;
            Ok((response.map(http_body_util::BodyExt::boxed_unsync), Box::new(io) as Io))
        })
    }
}
