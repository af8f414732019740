// The library, compiled to WebAssembly, off the page's own thread. It takes {text}, one at a time, and gives
// {text}; before all else it says {ready: true}, or {failed: why}.
import "./wasm_exec.js";

/** Go's WebAssembly comes compressed. A server that decompresses it on the way is welcome to. */
async function bytes() {
  const response = await fetch("./intercept.wasm.gz");
  if (!response.ok) throw new Error(`intercept.wasm.gz: ${response.status} ${response.statusText}`);
  const got = new Uint8Array(await response.arrayBuffer());
  if (got[0] !== 0x1f || got[1] !== 0x8b) return got;
  return new Response(new Blob([got]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

const loaded = (async () => {
  const go = new Go();
  const { instance } = await WebAssembly.instantiate(await bytes(), go.importObject);
  go.run(instance); // it does not return: main waits for questions
})();

loaded.then(
  () => postMessage({ ready: true }),
  (error) => postMessage({ failed: String(error?.message ?? error) }),
);

onmessage = ({ data: { text } }) => {
  try {
    postMessage({ text: globalThis.intercept.ask(text) });
  } catch (error) {
    postMessage({ failed: String(error?.message ?? error) }); // the program has ended
  }
};
