// Keeps the whole playground, the library included, so that it works without a network. The two lines below are filled
// in as the site is made: a change of any file makes another version, and a browser that sees another sw.js installs it
// beside the old one. The page then says that it is there; the reader says when it takes over.
const version = "development";
const files = [];

const prefix = "playground-";
const here = prefix + version;

addEventListener("install", (event) => {
  event.waitUntil(
    (async () => {
      const cache = await caches.open(here);
      await cache.addAll(files.map((file) => new Request(file, { cache: "no-cache" })));
      if (!registration.active) await skipWaiting();
    })(),
  );
});

addEventListener("activate", (event) => {
  event.waitUntil(
    (async () => {
      for (const name of await caches.keys()) {
        if (name.startsWith(prefix) && name !== here) await caches.delete(name);
      }
      await clients.claim();
    })(),
  );
});

addEventListener("message", (event) => {
  if (event.data === "take over") skipWaiting();
});

// The page's styles and icon are the site's: what is kept answers for all that the page asks for.
addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  if (event.request.method !== "GET" || url.origin !== location.origin) return;
  event.respondWith(
    (async () => {
      const cache = await caches.open(here);
      const page = event.request.mode === "navigate" ? "./" : event.request;
      return (await cache.match(page, { ignoreSearch: true })) ?? fetch(event.request);
    })(),
  );
});
