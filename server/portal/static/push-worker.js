// Shows the notifications that the vault pushes to this browser, opens the page that one is about, and posts the answer
// that a person gives in it. It intercepts no requests and stores nothing.
"use strict";
self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("push", (event) => {
  let message = {};
  try { message = event.data.json(); } catch { /* not JSON: show an empty notification, because every push must show one */ }
  const options = {
    body: message.body ?? "",
    data: { url: message.url ?? "/", title: message.title, answer: message.answer },
    icon: "/static/icon.png",
    tag: message.url,
    renotify: Boolean(message.url),
    requireInteraction: message.kind === "approval",
    actions: message.answer
      ? Object.entries(message.answer.decisions).map(([action, one]) => ({ action, title: one.action }))
      : message.action ? [{ action: "open", title: message.action }] : [], // same as a click: the page asks for a passkey, which a worker can't do
  };
  event.waitUntil(self.registration.showNotification(message.title ?? "Token Vault", options));
});
const inOrigin = (url) => {
  const wanted = new URL(url, self.location.origin);
  return wanted.origin === self.location.origin ? wanted.href : self.location.origin;
};
const open = async (url) => {
  const pages = await self.clients.matchAll({ type: "window", includeUncontrolled: true });
  const shown = pages.find((page) => page.url === url);
  return shown ? shown.focus() : self.clients.openWindow(url);
};
const answer = async ({ url, title, answer: { path, fields, decisions } }, decision) => {
  const body = new URLSearchParams({ ...fields, decision });
  const sent = await fetch(inOrigin(path), { method: "POST", body, mode: "same-origin", redirect: "error" }).catch(() => null);
  if (sent?.status !== 204) return open(inOrigin(url)); // the page says why, and asks for what is missing
  return self.registration.showNotification(decisions[decision].done, { body: title, tag: url, icon: "/static/icon.png", silent: true, data: { url } });
};
self.addEventListener("notificationclick", (event) => {
  event.notification.close();
  const { data } = event.notification;
  event.waitUntil(data.answer && event.action in data.answer.decisions ? answer(data, event.action) : open(inOrigin(data.url)));
});
