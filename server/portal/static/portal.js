// Enhances the pages, which all work without it: local times, countdowns, filters, new events, and the map.
"use strict";
(() => {
  const language = document.documentElement.lang;
  const parts = { month: "short", day: "numeric", hour: "numeric", minute: "2-digit" };
  const whole = new Intl.DateTimeFormat(language, { ...parts, year: "numeric", timeZoneName: "short" });
  const thisYear = new Intl.DateTimeFormat(language, { ...parts, timeZoneName: "short" });
  const relative = new Intl.RelativeTimeFormat(language, { numeric: "auto" });
  const ago = (seconds) => {
    const [size, unit] = [[86400, "day"], [3600, "hour"], [60, "minute"]].find(([size]) => seconds >= size) ?? [60, "minute"];
    return relative.format(-Math.round(seconds / size), unit);
  };
  const localize = (root) => {
    for (const one of root.querySelectorAll("time[datetime]")) {
      const at = new Date(one.dateTime), seconds = (Date.now() - at) / 1000;
      if (Number.isNaN(seconds) || one.hasAttribute("data-ends")) continue;
      one.title = whole.format(at);
      const isThisYear = at.getFullYear() === new Date().getFullYear();
      if (one.hasAttribute("data-ago") && seconds > -60 && seconds < 7 * 86400) one.textContent = ago(Math.max(0, seconds));
      else one.textContent = (isThisYear ? thisYear : whole).format(at);
    }
  };
  localize(document);
  for (const field of document.querySelectorAll("[data-zone]")) {
    if (!field.value) field.value = Intl.DateTimeFormat().resolvedOptions().timeZone;
  }

  // Read a key file into its field, in the browser. ASCII text is taken as it is, from other files only the PEM blocks
  // are taken, and a file without such blocks is encoded in base64.
  for (const choice of document.querySelectorAll("[data-fills]")) {
    choice.hidden = false;
    choice.querySelector("input").addEventListener("change", async ({ target }) => {
      if (!target.files.length) return; // the choice was canceled
      const bytes = new Uint8Array(await target.files[0].arrayBuffer());
      const text = String.fromCharCode(...bytes.subarray(0, 32768));
      const isText = /^[\t\n\r\x20-\x7e]*$/.test(text);
      const blocks = text.match(/-----BEGIN ([A-Z0-9 ]+)-----[\t\n\r\x20-\x7e]*?-----END \1-----/g);
      const field = document.getElementById(choice.dataset.fills);
      if (isText) field.value = (text.startsWith("-----BEGIN") ? field.value : "") + text;
      else field.value = blocks ? field.value + blocks.join("\n") + "\n" : btoa(text);
    });
  }

  // On a phone, where the row of tabs is too long, scroll the tab of the open page to the middle.
  for (const open of document.querySelectorAll(".tabs [aria-current]")) {
    const place = open.getBoundingClientRect(), row = open.parentElement.getBoundingClientRect();
    open.parentElement.scrollBy(place.left + place.width / 2 - row.left - row.width / 2, 0);
  }

  // A long form that is rarely needed is folded on a phone.
  for (const one of document.querySelectorAll("details[data-folds]:not([data-stays])")) one.open = matchMedia("(min-width: 40rem)").matches;

  // Fetch new events for the activity page while it is visible, until the session ends.
  const story = document.getElementById("story");
  const look = async () => {
    if (document.hidden) return true;
    const answer = await fetch(story.dataset.live, { redirect: "manual" });
    if (!answer.ok) return answer.status >= 500;
    const found = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("new");
    if (found === null) return false;
    story.dataset.live = found.dataset.live;
    if (found.children.length) {
      localize(found);
      const announced = document.getElementById("announced");
      announced.textContent = announced.dataset.text.replace("#", found.dataset.number);
      document.getElementById("nothing")?.remove();
      story.hidden = false;
      for (const row of found.children) row.classList.add("new");
      story.prepend(...found.children);
    }
    return true;
  };
  const watch = () => setTimeout(() => look().catch(() => true).then((goesOn) => goesOn && watch()), 4000);
  if (story) {
    document.querySelector("[data-live-hint]").hidden = false;
    watch();
  }

  // The map: highlight the lines of the agent or account that is hovered or focused.
  for (const map of document.querySelectorAll(".map")) {
    const lines = map.querySelector(".lines");
    const mark = (event) => {
      const place = event.type === "mouseout" || event.type === "focusout" ? null : event.target.closest("[data-from], [data-to]");
      const { from, to } = place?.dataset ?? {};
      lines.classList.toggle("some", place !== null);
      for (const line of lines.querySelectorAll("path")) {
        line.classList.toggle("on", place !== null && (from === undefined || line.dataset.from === from) && (to === undefined || line.dataset.to === to));
      }
    };
    for (const type of ["mouseover", "mouseout", "focusin", "focusout"]) map.addEventListener(type, mark);
  }

  const waiting = [...document.querySelectorAll("time[data-ends]")];
  const count = () => {
    for (const one of waiting) {
      const left = Math.max(0, Math.round((new Date(one.dateTime) - Date.now()) / 1000));
      one.textContent = `${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")}`;
    }
  };
  if (waiting.length) {
    count();
    setInterval(count, 1000);
  }

  const awaited = document.querySelector("[data-awaits]");
  if (awaited) {
    const look = async () => {
      if (!document.hidden) {
        const answer = await fetch(awaited.dataset.awaits).catch(() => null);
        const page = answer?.ok && !answer.redirected ? new DOMParser().parseFromString(await answer.text(), "text/html") : null;
        const found = page?.getElementById(awaited.id);
        if (found && !("awaits" in found.dataset)) return awaited.replaceChildren(...found.childNodes);
      }
      setTimeout(look, 4000);
    };
    setTimeout(look, 4000);
  }

  if (navigator.clipboard) {
    for (const button of document.querySelectorAll("button[data-copy]")) {
      button.hidden = false;
      const label = button.firstChild, words = label.textContent;
      button.addEventListener("click", async () => {
        await navigator.clipboard.writeText(button.dataset.copy);
        label.textContent = button.dataset.copied;
        setTimeout(() => { label.textContent = words; }, 2000);
      });
    }
  }

  for (const field of document.querySelectorAll("input[data-filter]")) {
    const items = [...document.getElementById(field.dataset.filter).children];
    field.closest("[hidden]")?.removeAttribute("hidden");
    field.addEventListener("input", () => {
      const wanted = field.value.trim().toLowerCase();
      for (const item of items) item.hidden = !item.textContent.toLowerCase().includes(wanted);
    });
  }
})();
