// Notifications in this browser: the form gets a subscription from the browser and posts it; hidden without this script.
"use strict";
(async () => {
  const form = document.querySelector("form[data-push]");
  if (!("serviceWorker" in navigator) || !("PushManager" in window) || !("Notification" in window)) return;
  const hash = async (text) => {
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text)));
    return btoa(String.fromCharCode(...digest)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  };
  const held = async () => {
    const registration = await navigator.serviceWorker.getRegistration("/static/");
    return (await registration?.pushManager.getSubscription()) ?? null;
  };
  const row = async (subscription) => subscription && document.querySelector(`[data-endpoint="${await hash(subscription.endpoint)}"]`);

  const own = await held(), here = await row(own);
  for (const one of document.querySelectorAll("[data-push-missing]")) one.hidden = true;
  if (here) {
    for (const one of here.querySelectorAll("[data-here], [data-only-here]")) one.hidden = false;
    navigator.serviceWorker.register(here.closest("[data-worker]").dataset.worker); // this release's worker
    here.querySelector("button[value=remove]").addEventListener("click", () => own.unsubscribe());
    return;
  }
  if (!form) return;
  const trouble = form.querySelector("[role=alert]"), button = form.querySelector("button");
  form.hidden = false;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    trouble.hidden = true;
    button.disabled = true;
    try {
      if ((await Notification.requestPermission()) !== "granted") throw new Error("denied");
      const registration = await navigator.serviceWorker.register(form.dataset.worker);
      const worker = registration.active ?? registration.waiting ?? registration.installing;
      await new Promise((done) => {
        const look = () => worker.state === "activated" && done();
        worker.addEventListener("statechange", look);
        look();
      });
      await (await registration.pushManager.getSubscription())?.unsubscribe(); // it is another person's, or the vault no longer knows it
      const made = await registration.pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: form.dataset.push });
      form.elements.subscription.value = JSON.stringify(made);
      form.submit();
    } catch (error) {
      button.disabled = false;
      trouble.textContent = error.message === "denied" ? form.dataset.denied : form.dataset.failed;
      trouble.hidden = false;
    }
  });
})();
