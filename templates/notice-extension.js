// Shows notices above JupyterLab, that of the admin and the warning of a full disk, and removes them again: no page need
// be loaded anew.
// JupyterLab loads it as what webpack's module federation would have built; it needs nothing of anybody else.
(() => {
  const SECONDS = 30;

  const FILES = ['notice.txt', 'disk.txt'];

  const read = async address => {
    const answer = await fetch(address, { cache: 'no-store' });
    if (!answer.ok) throw new Error(answer.statusText);
    return (await answer.text()).trim();
  };

  const text = async base => {
    const texts = await Promise.all(FILES.map(name => read(`${base}static/${name}`)));
    return texts.filter(Boolean).join('\n');
  };

  const bar = () => {
    const made = document.createElement('div');
    made.id = 'provisioner-notice';
    made.setAttribute('role', 'status');
    Object.assign(made.style, {
      background: 'var(--jp-warn-color3, #ffe9a8)',
      borderBottom: '1px solid var(--jp-warn-color1, #b77b00)',
      color: 'var(--jp-ui-font-color0, black)',
      font: '13px var(--jp-ui-font-family, sans-serif)',
      overflowWrap: 'anywhere',
      padding: '6px 12px',
      whiteSpace: 'pre-line'
    });
    return made;
  };

  // JupyterLab fills the page from corner to corner; below the line it has what is left.
  const makeRoom = shown => {
    const main = document.getElementById('main');
    if (main) main.style.top = `${shown.offsetHeight}px`;
    window.dispatchEvent(new Event('resize'));
  };

  // Returns at once: JupyterLab waits for its extensions.
  const activate = app => {
    const base = app.serviceManager.serverSettings.baseUrl;
    const shown = bar();
    const look = async () => {
      // A server that does not answer for a while, as in a switch, is no reason to take anything away.
      const notice = await text(base).catch(() => shown.textContent);
      if (notice === shown.textContent) return;
      shown.textContent = notice; // as text: nothing in it is HTML
      if (notice) document.body.prepend(shown);
      else shown.remove();
    };
    new ResizeObserver(() => makeRoom(shown)).observe(shown);
    app.restored.then(() => makeRoom(shown));
    look();
    setInterval(look, SECONDS * 1000);
  };

  const plugin = { id: 'provisioner-notice:plugin', autoStart: true, activate };
  window._JUPYTERLAB = window._JUPYTERLAB || {};
  window._JUPYTERLAB['provisioner-notice'] = {
    init: () => undefined,
    get: async () => () => ({ __esModule: true, default: plugin })
  };
})();
