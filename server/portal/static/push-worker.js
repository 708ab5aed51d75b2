// Shows what the vault pushes to this browser, and opens the page that it is about. It sees no request and keeps nothing.
"use strict";
self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("push", (event) => {
  let message = {};
  try { message = event.data.json(); } catch { /* not ours: shown as what it is, since a push must show something */ }
  const options = {
    body: message.body ?? "",
    data: { url: message.url ?? "/" },
    icon: "/static/icon.png",
    tag: message.url,
    renotify: Boolean(message.url),
    requireInteraction: message.kind === "approval",
    actions: message.action ? [{ action: "open", title: message.action }] : [], // as a click: the page asks for a passkey, which no worker can
  };
  event.waitUntil(self.registration.showNotification(message.title ?? "Token Vault", options));
});
self.addEventListener("notificationclick", (event) => {
  event.notification.close();
  const wanted = new URL(event.notification.data.url, self.location.origin);
  const url = wanted.origin === self.location.origin ? wanted.href : self.location.origin;
  const open = async () => {
    const pages = await self.clients.matchAll({ type: "window", includeUncontrolled: true });
    const shown = pages.find((page) => page.url === url);
    return shown ? shown.focus() : self.clients.openWindow(url);
  };
  event.waitUntil(open());
});
